use proptest::prelude::*;
use sensor_proto::v1::event::Body;
use sensor_proto::v1::*;

use super::*;
use crate::config::rule::RulesFile;

fn rules(text: &str) -> Vec<FilterRule> {
    toml::from_str::<RulesFile>(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .rule
}

fn file(path: &str, sha256: u8, verdict: HashVerdict) -> FileInfo {
    FileInfo {
        path: Some(path.as_bytes().to_vec()),
        hashes: Some(Hashes {
            sha256: Some(vec![sha256; 32]),
            md5: Some(vec![sha256; 16]),
            verdict: verdict.into(),
            ..Hashes::default()
        }),
        ..FileInfo::default()
    }
}

fn user(id: u32, name: &str) -> Option<User> {
    Some(User {
        id,
        name: Some(name.to_owned()),
        ..User::default()
    })
}

/// make, run by alice through sudo, in a docker container, below bash.
fn process() -> Process {
    Process {
        image: Some(file("/usr/bin/make", 0xaa, HashVerdict::Verified)),
        script_chain: vec![file("/opt/run.sh", 0xcc, HashVerdict::Racy)],
        argv: [b"make".as_slice(), b"-j", b"all \xff"]
            .map(<[u8]>::to_vec)
            .to_vec(),
        working_directory: Some(b"/home/alice/src".to_vec()),
        credentials: Some(Credentials {
            real_user: user(1000, "alice"),
            effective_user: user(0, "root"),
            login_user: user(1001, "bob"),
            real_group: Some(Group {
                id: 100,
                name: Some("users".to_owned()),
            }),
            ..Credentials::default()
        }),
        namespaces: Some(Namespaces {
            mnt: Some(4_026_531_840),
            ..Namespaces::default()
        }),
        cgroup_path: Some(b"/system.slice/docker-abc.scope".to_vec()),
        container: Some(Box::new(Container {
            id: "abcdef".to_owned(),
            runtime: ContainerRuntime::Docker.into(),
            name: Some("cart".to_owned()),
            image: Some("registry:5000/shop/cart:2".to_owned()),
            pod_namespace: Some("shop".to_owned()),
            ..Container::default()
        })),
        ..Process::default()
    }
}

fn bash() -> Process {
    Process {
        image: Some(file("/usr/bin/bash", 0xbb, HashVerdict::Verified)),
        ..Process::default()
    }
}

fn event(body: Body) -> Event {
    Event {
        body: Some(body),
        ..Event::default()
    }
}

fn create(path: &str) -> Event {
    event(Body::FileCreate(FileCreate {
        file: Some(file(path, 0xdd, HashVerdict::Verified)),
        ..FileCreate::default()
    }))
}

fn connection(address: &str, port: u32) -> Event {
    let address: std::net::IpAddr = address.parse().unwrap();
    let bytes = match address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    event(Body::Connect(Connect {
        transport: Transport::Tcp.into(),
        protocol: Some(6),
        direction: Direction::Outbound.into(),
        remote: Some(Endpoint {
            address: Some(bytes),
            port: Some(port),
            ..Endpoint::default()
        }),
        local: Some(Endpoint {
            address: Some(vec![10, 0, 0, 5]),
            port: Some(40_000),
            ..Endpoint::default()
        }),
        ..Connect::default()
    }))
}

fn unix(name: &str, unix_abstract: bool) -> Event {
    event(Body::Connect(Connect {
        transport: Transport::Unix.into(),
        remote: Some(Endpoint {
            unix_path: Some(name.as_bytes().to_vec()),
            unix_abstract,
            ..Endpoint::default()
        }),
        ..Connect::default()
    }))
}

fn module(name: &str) -> Event {
    event(Body::ModuleLoad(ModuleLoad {
        name: Some(name.as_bytes().to_vec()),
        file: Some(file(
            "/lib/modules/6.1/dummy.ko",
            0xee,
            HashVerdict::Verified,
        )),
        ..ModuleLoad::default()
    }))
}

fn exec() -> Event {
    event(Body::Exec(Exec::default()))
}

fn matches(criteria: &str, event: &Event) -> bool {
    let text = format!("[[rule]]\nid = \"r\"\naction = \"exclude\"\n{criteria}\n");
    let filter =
        Filter::compile(&rules(&text)).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    let (process, parent) = (process(), bash());
    let subject = Subject {
        event,
        process: Some(&process),
        parent: Some(&parent),
    };
    filter.first_match(&subject).action() == RuleAction::Exclude
}

#[test]
fn each_criterion_holds_and_fails() {
    let aa = "aa".repeat(32);
    let cc = "cc".repeat(32);
    let dd = "DD".repeat(16);
    let connect = connection("93.184.216.34", 443);
    let table: Vec<(String, Event, bool)> = [
        ("event = ['exec']", exec(), true),
        ("event = ['exit', 'fork']", exec(), false),
        ("image_path = ['/usr/bin/make']", exec(), true),
        ("image_path = ['/usr/bin/Make']", exec(), false),
        (
            "image_path = ['/usr/bin/Make']\nignore_case = true",
            exec(),
            true,
        ),
        ("image_path = ['/USR/**']\nignore_case = true", exec(), true),
        (
            "image_path = ['/USR/*/m?ke']\nignore_case = true",
            exec(),
            true,
        ),
        ("image_path = ['/bin/sh', '/usr/**']", exec(), true),
        ("image_path = ['/usr/bin/make/**']", exec(), false),
        ("image_path = ['/usr/*']", exec(), false),
        ("image_path = ['/usr/*/make']", exec(), true),
        ("image_path = ['/usr/**/m[a-b]ke']", exec(), true),
        ("image_path = ['/usr/bin/{cc,make}']", exec(), true),
        ("image_path = ['/usr/bin/mak\\e']", exec(), true),
        (&format!("image_sha256 = ['{aa}']"), exec(), true),
        (&format!("image_sha256 = ['{cc}']"), exec(), false),
        // The script's hash is racy: it does not count.
        (&format!("file_sha256 = ['{cc}']"), exec(), false),
        ("file_path = ['/opt/*.sh']", exec(), true),
        ("parent_path = ['/usr/bin/bash']", exec(), true),
        ("parent_path = ['/usr/bin/make']", exec(), false),
        ("command_line = ['^make -j ']", exec(), true),
        ("command_line = ['never', '(?-u)all \\xff$']", exec(), true),
        ("command_line = ['^-j']", exec(), false),
        ("command_line = ['MAKE']\nignore_case = true", exec(), true),
        ("working_directory = ['/home/*/src']", exec(), true),
        ("user = ['alice']", exec(), true),
        ("user = ['root', '0', '1-999']", exec(), false),
        ("user = ['900-1000']", exec(), true),
        ("effective_user = ['0']", exec(), true),
        ("login_user = ['bob']", exec(), true),
        ("group = ['users']", exec(), true),
        ("group = ['99']", exec(), false),
        ("in_container = true", exec(), true),
        ("in_container = false", exec(), false),
        ("container_id = ['abc*']", exec(), true),
        ("container_name = ['ca*']", exec(), true),
        ("container_name = ['web']", exec(), false),
        ("container_image = ['registry:5000/**']", exec(), true),
        ("container_image = ['cart']", exec(), false),
        ("pod_namespace = ['shop']", exec(), true),
        ("pod_namespace = ['kube-system']", exec(), false),
        ("container_runtime = ['docker']", exec(), true),
        ("container_runtime = ['podman']", exec(), false),
        ("cgroup_path = ['/system.slice/**']", exec(), true),
        ("mount_namespace = [4026531840]", exec(), true),
        ("mount_namespace = [1]", exec(), false),
        ("file_path = ['/tmp/**']", create("/tmp/a/b"), true),
        ("file_path = ['/tmp/**']", create("/tmp/"), false),
        ("file_path = ['/tmp/*']", create("/tmp/a/b"), false),
        (&format!("file_md5 = ['{dd}']"), create("/x"), true),
        ("file_path = ['/lib/modules/**']", module("dummy"), true),
        ("module_name = ['dum*']", module("dummy"), true),
        ("module_name = ['dum']", module("dummy"), false),
        ("direction = ['outbound']", connect.clone(), true),
        ("direction = ['inbound']", connect.clone(), false),
        ("protocol = ['tcp']", connect.clone(), true),
        ("protocol = ['6']", connect.clone(), true),
        ("protocol = ['udp', 'unix', '17']", connect.clone(), false),
        ("protocol = ['unix']", unix("/run/x", false), true),
        ("remote_port = ['80', '440-450']", connect.clone(), true),
        ("remote_port = ['80', '444-450']", connect.clone(), false),
        ("remote_port = ['0-65535']", unix("/run/x", false), false),
        ("local_port = ['32768-60999']", connect.clone(), true),
        ("local_ip = ['10.0.0.0/8']", connect.clone(), true),
        ("remote_ip = ['10.0.0.0/8']", connect.clone(), false),
        ("remote_ip = ['93.184.216.34']", connect.clone(), true),
        ("remote_ip = ['external']", connect.clone(), true),
        ("remote_ip = ['loopback']", connect.clone(), false),
        (
            "remote_ip = ['loopback']",
            connection("::ffff:127.0.0.9", 1),
            true,
        ),
        (
            "remote_ip = ['127.0.0.0/8']",
            connection("::ffff:127.0.0.9", 1),
            true,
        ),
        ("remote_ip = ['external']", connection("fe80::1", 1), false),
        (
            "remote_ip = ['external']",
            connection("100.64.3.2", 1),
            false,
        ),
        ("remote_ip = ['fe80::/10']", connection("fe80::1", 1), true),
        ("unix_path = ['/run/*']", unix("/run/x", false), true),
        ("unix_path = ['@dbus-*']", unix("dbus-1", true), true),
        ("unix_path = ['dbus-*']", unix("dbus-1", true), false),
        ("unix_path = ['/run/*']", connect.clone(), false),
        // A conjunction fails by any one.
        (
            "user = ['alice']\nremote_port = ['443']",
            connect.clone(),
            true,
        ),
        (
            "user = ['carol']\nremote_port = ['443']",
            connect.clone(),
            false,
        ),
        ("user = ['alice']\nremote_port = ['443']", exec(), false),
    ]
    .map(|(criteria, event, holds)| (criteria.to_owned(), event, holds))
    .to_vec();
    for (criteria, event, holds) in table {
        assert_eq!(matches(&criteria, &event), holds, "{criteria} of {event:?}");
    }
}

#[test]
fn credentials_of_the_event_come_before_those_of_the_process() {
    let mut event = create("/x");
    event.credentials = Some(Credentials {
        real_user: user(5, "games"),
        ..Credentials::default()
    });
    assert!(matches("user = ['games']", &event));
    assert!(!matches("user = ['alice']", &event));
    // What the event does not say is that of the process.
    assert!(matches("login_user = ['bob']", &event));
}

#[test]
fn what_is_not_known_does_not_match() {
    let filter = Filter::compile(&rules(
        "[[rule]]\nid = 'a'\naction = 'exclude'\nin_container = false\n\
         [[rule]]\nid = 'b'\naction = 'exclude'\ncommand_line = ['']\n",
    ))
    .unwrap();
    let event = exec();
    let unknown = Subject {
        event: &event,
        process: None,
        parent: None,
    };
    assert_eq!(filter.decide(&unknown), Decision::Default);
}

#[test]
fn the_first_match_decides_and_counts() {
    let filter = Filter::compile(&rules(
        "[[rule]]\nid = 'keep-etc'\naction = 'include'\nfile_path = ['/etc/**']\n\
         [[rule]]\nid = 'merge-tmp'\naction = 'aggregate'\nevent = ['file_create']\nfile_path = ['/tmp/**']\n\
         [[rule]]\nid = 'drop-files'\naction = 'exclude'\nevent = ['file_create']\n",
    ))
    .unwrap();
    for (path, rule, action) in [
        ("/etc/passwd", Some("keep-etc"), RuleAction::Include),
        ("/tmp/x", Some("merge-tmp"), RuleAction::Aggregate),
        ("/var/x", Some("drop-files"), RuleAction::Exclude),
        ("/var/y", Some("drop-files"), RuleAction::Exclude),
    ] {
        let event = create(path);
        let subject = Subject {
            event: &event,
            process: None,
            parent: None,
        };
        let decision = filter.decide(&subject);
        assert_eq!(decision.action(), action, "{path}");
        let named = match decision {
            Decision::Rule(info, _) => Some(info.id.as_str()),
            Decision::Default => None,
        };
        assert_eq!(named, rule, "{path}");
    }
    let event = exec();
    let subject = Subject {
        event: &event,
        process: None,
        parent: None,
    };
    assert_eq!(filter.decide(&subject), Decision::Default);
    let counts: Vec<u64> = filter.rules().map(|(_, count)| count).collect();
    assert_eq!(counts, [1, 1, 2]);
}

#[test]
fn explains_what_it_looks_up_and_how() {
    let filter = Filter::compile(&rules(
        "[[rule]]\nid = 'a'\naction = 'exclude'\nimage_path = ['/usr/**', '/bin/sh', '/x/*']\nuser = ['root']\n",
    ))
    .unwrap();
    let (info, _) = filter.rules().next().unwrap();
    assert_eq!(
        info.criteria,
        [
            "user: root",
            "image_path: /usr/** (prefix) | /bin/sh (exact) | /x/* (glob)"
        ]
    );
    assert_eq!(info.events.len(), 6);
}

#[test]
fn the_documented_example_compiles() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("sensor.toml"),
        crate::config::document::EXAMPLE,
    )
    .unwrap();
    let loaded = crate::config::load(&crate::config::Sources {
        file: None,
        directory: directory.path().to_owned(),
        settings: crate::config::SettingsSource::None,
        overrides: crate::config::Overrides::default(),
    })
    .unwrap();
    let filter = Filter::from_config(&loaded).unwrap();
    assert_eq!(filter.rules().count(), 3);
}

#[test]
fn wrong_rules_are_refused_whole_and_all_faults_told() {
    let errors = Filter::compile(&rules(
        "[[rule]]\nid = 'a b'\naction = 'include'\nremote_ip = ['10.0.0.0/8', '10.0.0.0/33', 'nowhere']\n\
         [[rule]]\nid = 'c'\naction = 'exclude'\nevent = ['exec', 'connect']\nremote_port = ['443', '70000', '9-1', '+1']\n\
         [[rule]]\nid = 'c'\naction = 'aggregate'\nuser = ['root', '-1', '1x', '']\n\
         [[rule]]\nid = 'd'\naction = 'exclude'\nmodule_name = ['x']\nremote_ip = ['::1']\n\
         [[rule]]\nid = 'e'\naction = 'exclude'\nimage_sha256 = ['abc']\nimage_path = ['/ok', '[']\ncommand_line = ['ok', '(']\n\
         [[rule]]\nid = 'f'\naction = 'exclude'\nprotocol = ['tpc']\ndirection = ['up']\ncontainer_runtime = ['x']\n",
    ))
    .unwrap_err();
    let told: Vec<String> = errors
        .iter()
        .map(|error| format!("{} {error}", error.rule))
        .collect();
    let expected = [
        "0 id: `a b` is not an id: 1 to 64 letters, digits, `-`, `_`, `.`",
        "0 remote_ip[1]: `10.0.0.0/33` is not an address",
        "0 remote_ip[2]: `nowhere` is not an address",
        "1 remote_port[1]: `70000` is not a number or a range",
        "1 remote_port[2]: `9-1` is not a number or a range",
        "1 remote_port[3]: `+1` is not a number or a range",
        "1 remote_port: an event of type exec has no remote_port, so the rule could never match it",
        "2 id: another rule has the id `c`",
        "2 user[1]: `-1` is not a name, an id or a range of ids",
        "2 user[2]: `1x` is not a name",
        "2 user[3]: `` is not a name",
        "2 action: events of type exec are never merged",
        "3 no event has all of these criteria",
        "4 image_sha256[0]: `abc` is not a digest of 64 hexadecimal digits",
        "4 image_path[1]: not a pattern: unclosed character class",
        "4 command_line[1]: not a regular expression",
        "5 direction[0]: `up` is none of outbound, inbound",
        "5 protocol[0]: `tpc` is none of tcp, udp",
        "5 container_runtime[0]: `x` is none of docker, containerd",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told} / {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_compiles_or_is_refused(text in "\\PC{0,24}", other in "[-0-9a-f./*?\\[\\]{}:\\\\]{0,24}") {
        for text in [text, other] {
            let one = || vec![text.clone()];
            let rule = FilterRule {
                id: "x".to_owned(),
                action: RuleAction::Exclude,
                event: Vec::new(),
                ignore_case: true,
                image_path: one(), image_md5: one(), image_sha256: one(), parent_path: one(),
                command_line: one(), working_directory: one(), user: one(), effective_user: one(),
                login_user: one(), group: one(), in_container: None, container_id: one(),
                container_name: one(), container_image: one(), pod_namespace: one(), container_runtime: one(), cgroup_path: one(), mount_namespace: Vec::new(),
                file_path: one(), file_md5: one(), file_sha256: one(), module_name: one(),
                direction: one(), protocol: one(), remote_ip: one(), local_ip: one(),
                remote_port: one(), local_port: one(), unix_path: one(),
            };
            // No event has all of these criteria, so it is always refused, but never by a panic.
            prop_assert!(Filter::compile(&[rule]).is_err());
        }
    }

    #[test]
    fn a_plain_path_matches_itself_only(path in "/[a-z0-9/._ -]{0,30}", other in "/[a-z0-9/._ -]{0,30}") {
        let holds = |pattern: &str, path: &str| {
            let rule = FilterRule { file_path: vec![pattern.to_owned()], ..rules("[[rule]]\nid='r'\naction='exclude'").remove(0) };
            let filter = Filter::compile(&[rule]).unwrap();
            let event = create(path);
            filter.first_match(&Subject { event: &event, process: None, parent: None }) != Decision::Default
        };
        prop_assert!(holds(&path, &path));
        prop_assert_eq!(holds(&path, &other), path == other);
        let longer = format!("{path}x");
        prop_assert!(holds("/**", &longer));
    }
}
