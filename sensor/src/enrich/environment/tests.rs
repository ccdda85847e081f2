use proptest::prelude::*;

use super::*;
use crate::config::file::{ENVIRONMENT_ALLOW, ENVIRONMENT_REDACT};

fn policy() -> &'static Policy {
    static POLICY: std::sync::LazyLock<Policy> =
        std::sync::LazyLock::new(|| Policy::new(ENVIRONMENT_ALLOW, ENVIRONMENT_REDACT).unwrap());
    &POLICY
}

fn joined(strings: &[&str]) -> Vec<u8> {
    strings
        .iter()
        .flat_map(|s| [s.as_bytes(), b"\0"].concat())
        .collect()
}

/// Arguments and what must become of them.
fn check(before: &[&str], after: &[&str]) {
    let out = policy().arguments(&joined(before));
    let strings: Vec<_> = out
        .strings
        .iter()
        .map(|s| String::from_utf8_lossy(s).into_owned())
        .collect();
    assert_eq!(strings, after, "of {before:?}");
    let changed: Vec<u32> = before
        .iter()
        .zip(after)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
        .map(|(index, _)| u32::try_from(index).unwrap())
        .collect();
    assert_eq!(out.redacted, changed, "of {before:?}");
}

fn untouched(arguments: &[&str]) {
    check(arguments, arguments);
}

#[test]
fn options_that_name_a_secret() {
    check(&["x", "--password=hunter2"], &["x", "--password=***"]);
    check(
        &["x", "--password", "hunter2", "b"],
        &["x", "--password", "***", "b"],
    );
    check(&["x", "--db-password", "p"], &["x", "--db-password", "***"]);
    check(&["x", "--dbPassword=p"], &["x", "--dbPassword=***"]);
    check(
        &["x", "--token", "abc", "--api-key=k"],
        &["x", "--token", "***", "--api-key=***"],
    );
    check(
        &["x", "-Djavax.net.ssl.keyStorePassword=changeit"],
        &["x", "-Djavax.net.ssl.keyStorePassword=***"],
    );
    check(
        &["x", "--client-secret", "s"],
        &["x", "--client-secret", "***"],
    );
    check(
        &["env", "PGPASSWORD=p", "psql"],
        &["env", "PGPASSWORD=***", "psql"],
    );
    check(&["x", "--private-key=MIIE"], &["x", "--private-key=***"]);
    check(
        &["gpg", "--passphrase", "p"],
        &["gpg", "--passphrase", "***"],
    );
    check(
        &["x", "AWS_SECRET_ACCESS_KEY=a/b+c"],
        &["x", "AWS_SECRET_ACCESS_KEY=***"],
    );
    check(
        &["x", "--oauth2-bearer", "tok"],
        &["x", "--oauth2-bearer", "***"],
    );
}

#[test]
fn habits_of_known_tools() {
    check(
        &["/usr/bin/mysql", "-uroot", "-phunter2"],
        &["/usr/bin/mysql", "-uroot", "-p***"],
    );
    check(&["mysql", "-p", "database"], &["mysql", "-p", "database"]);
    check(&["sudo", "mysql", "-px"], &["sudo", "mysql", "-p***"]);
    check(
        &["sshpass", "-p", "x", "ssh", "host"],
        &["sshpass", "-p", "***", "ssh", "host"],
    );
    check(
        &["sshpass", "-px", "ssh", "-p", "22"],
        &["sshpass", "-p***", "ssh", "-p", "22"],
    );
    check(
        &["curl", "-u", "me:x", "http://h/"],
        &["curl", "-u", "me:***", "http://h/"],
    );
    check(&["curl", "--user=me:x"], &["curl", "--user=me:***"]);
    check(&["curl", "-ume:x"], &["curl", "-ume:***"]);
    check(
        &["curl", "-u", "me", "http://h:80/"],
        &["curl", "-u", "me", "http://h:80/"],
    );
    check(
        &["redis-cli", "-a", "x", "ping"],
        &["redis-cli", "-a", "***", "ping"],
    );
    check(&["smbclient", "-U", "me%x"], &["smbclient", "-U", "me%***"]);
    check(
        &["openssl", "rsa", "-passin", "pass:x"],
        &["openssl", "rsa", "-passin", "pass:***"],
    );
    check(
        &["docker", "login", "-u", "a", "-p", "x"],
        &["docker", "login", "-u", "a", "-p", "***"],
    );
    check(
        &["unzip", "-P", "x", "a.zip"],
        &["unzip", "-P", "***", "a.zip"],
    );
}

#[test]
fn forms_that_secrets_have() {
    check(
        &["x", "https://me:pw@h/p?q"],
        &["x", "https://me:***@h/p?q"],
    );
    check(
        &["x", "postgres://u:p@ss@h:5432/d"],
        &["x", "postgres://u:***@h:5432/d"],
    );
    check(
        &["x", "https://h/?a=1&token=abc&b=2"],
        &["x", "https://h/?a=1&token=***&b=2"],
    );
    check(&["x", "AKIAIOSFODNN7EXAMPLE"], &["x", "***"]);
    check(
        &["curl", "-H", "Authorization: Bearer abc.def"],
        &["curl", "-H", "Authorization: Bearer ***"],
    );
    check(
        &["curl", "-H", "authorization: Basic dXNlcjpwdw=="],
        &["curl", "-H", "authorization: Basic ***"],
    );
    check(
        &["curl", "-H", "X-Api-Key: 12345"],
        &["curl", "-H", "X-Api-Key: ***"],
    );
    check(
        &["curl", "-H", "X-Vault-Token: s.123"],
        &["curl", "-H", "X-Vault-Token: ***"],
    );
    check(
        &["x", r#"{"user":"a","password":"p w","n":1}"#],
        &["x", r#"{"user":"a","password":"***","n":1}"#],
    );
    check(
        &["x", "Server=h;UID=sa;PWD=x;Db=d"],
        &["x", "Server=h;UID=sa;PWD=***;Db=d"],
    );
    check(
        &["x", "host=h password=x user=u"],
        &["x", "host=h password=*** user=u"],
    );
    check(
        &["x", "user=a,password=x,uid=0"],
        &["x", "user=a,password=***,uid=0"],
    );
    check(
        &[
            "x",
            "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        ],
        &[
            "x",
            "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----",
        ],
    );
    check(
        &["x", "-----BEGIN PRIVATE KEY-----\nMII"],
        &["x", "-----BEGIN PRIVATE KEY-----***"],
    );
    let jwt = format!("eyJ{}.eyJ{}.sig", "hbGciOiJI", "zdWIiOiIx");
    check(&["x", &jwt], &["x", "***"]);
    let github = format!("ghp_{}", "a".repeat(36));
    check(
        &["x", &format!("https://{github}@github.com/a")],
        &["x", "https://***@github.com/a"],
    );
}

#[test]
fn command_lines_within_an_argument() {
    check(
        &["sh", "-c", "mysql -u root -phunter2 db"],
        &["sh", "-c", "mysql -u root -p*** db"],
    );
    check(
        &["sh", "-c", "x --password 'my pw' y"],
        &["sh", "-c", "x --password '***' y"],
    );
    check(
        &["sh", "-c", "x --password \"pw\" y"],
        &["sh", "-c", "x --password \"***\" y"],
    );
    check(
        &["sh", "-c", "export TOKEN=abc; run"],
        &["sh", "-c", "export TOKEN=***; run"],
    );
    check(
        &["sh", "-c", "sshpass -p x ssh h; ssh -p 22 h"],
        &["sh", "-c", "sshpass -p *** ssh h; ssh -p 22 h"],
    );
}

#[test]
fn ordinary_arguments_stay_as_they_are() {
    untouched(&["ls", "-la", "/etc/passwd", ""]);
    untouched(&["ssh", "-p", "22", "user@host"]);
    untouched(&["docker", "run", "-p", "80:80", "image:tag"]);
    untouched(&["mkdir", "-p", "/a/b"]);
    untouched(&["cp", "-pr", "a", "b"]);
    untouched(&["passwd", "root"]);
    untouched(&["grep", "-r", "password", "."]);
    untouched(&["kubectl", "get", "secret", "name"]);
    untouched(&["x", "--password-file", "/run/secrets/p", "--token-file=/t"]);
    untouched(&["x", "--no-password", "file", "--ask-pass", "b"]);
    untouched(&[
        "x",
        "--pass-through",
        "yes",
        "--max-tokens",
        "100",
        "--tokenizer",
        "bpe",
    ]);
    untouched(&["x", "--password", "--verbose"]);
    untouched(&["docker", "login", "--password-stdin", "registry:5000"]);
    untouched(&[
        "ansible",
        "--private-key",
        "/home/a/.ssh/id",
        "--key",
        "a.pem",
    ]);
    untouched(&["ansible", "--private-key=~/.ssh/id"]);
    untouched(&["sort", "-k", "2", "--key=1"]);
    untouched(&[
        "git",
        "clone",
        "ssh://git@host:22/a.git",
        "git@host:a/b.git",
    ]);
    untouched(&["curl", "http://host:8080/a@b", "http://[::1]:80/"]);
    untouched(&["rsync", "a", "host:/token:x"]);
    untouched(&["java", "-Dcom.sun.x=1", "-cp", "a.jar:b.jar", "Main"]);
    untouched(&[
        "env",
        "PWD=/tmp",
        "PATH=/bin:/sbin",
        "SSH_AUTH_SOCK=/run/s",
        "x",
    ]);
    untouched(&["mount", "-o", "uid=0,gid=0,mode=0700", "/dev/sda1", "/mnt"]);
    untouched(&["sh", "-c", "for i in 1 2; do echo $i; done"]);
    untouched(&["openssl", "req", "-keyout", "k.pem", "-pass"]);
    untouched(&["ps", "-p", "1", "-o", "pid="]);
    untouched(&["gpg", "--list-secret-keys", "x"]);
}

#[test]
fn splitting() {
    let policy = policy();
    assert_eq!(policy.arguments(b""), Arguments::default());
    assert_eq!(policy.arguments(b"\0").strings, [b""]);
    assert_eq!(
        policy.arguments(b"a\0\0b\0").strings,
        [&b"a"[..], b"", b"b"]
    );
    assert_eq!(policy.arguments(b"a\0cut").strings, [&b"a"[..], b"cut"]);
    assert_eq!(policy.arguments(b"\xff\xfe\0").strings, [b"\xff\xfe"]);
    let many = policy.arguments(&vec![0; MAX_STRINGS + 1]);
    assert_eq!((many.strings.len(), many.cut), (MAX_STRINGS, true));
    assert!(!policy.arguments(&vec![0; MAX_STRINGS]).cut);
}

#[test]
fn environment_is_reduced_to_the_allowed_names() {
    let out = policy().environment(
        b"PATH=/bin\0SECRET_PLAN=x\0LD_PRELOAD=/tmp/x.so\0HOME=\0container\0\0\
          SSH_CONNECTION=2001:db8::7 5022 10.0.0.1 22\0EDITOR=vi\0MY=1\0",
    );
    let names: Vec<_> = out
        .variables
        .iter()
        .map(|v| String::from_utf8_lossy(&v.name).into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "PATH",
            "LD_PRELOAD",
            "HOME",
            "container",
            "SSH_CONNECTION",
            "EDITOR"
        ]
    );
    assert_eq!(out.withheld, 2);
    assert_eq!(out.variables[2].value.as_deref(), Some(&b""[..]));
    assert_eq!(out.variables[3].value, None);
    assert!(!out.variables[3].redacted);
    assert_eq!(out.remote, Some(("2001:db8::7".parse().unwrap(), 5022)));
}

#[test]
fn the_remote_end_is_read_even_where_its_name_is_not_allowed() {
    let policy = Policy::new::<&str, &str>(&[], &[]).unwrap();
    let out = policy.environment(b"SSH_CONNECTION=fe80::1%eth0 1 fe80::2 22\0");
    assert_eq!(out.remote, Some(("fe80::1".parse().unwrap(), 1)));
    assert_eq!((out.variables.len(), out.withheld), (0, 1));
    assert_eq!(
        policy.environment(b"SSH_CONNECTION=nonsense\0").remote,
        None
    );
}

#[test]
fn allowed_variables_with_secrets() {
    let policy = Policy::new(&["*"], &["*CORP*ID"]).unwrap();
    let one = |text: &str| policy.environment(text.as_bytes()).variables.remove(0);
    let gone = one("DB_PASSWORD=x");
    assert_eq!((gone.value, gone.redacted), (None, true));
    let part = one("http_proxy=http://me:x@proxy:3128");
    assert_eq!(
        part.value.as_deref(),
        Some(&b"http://me:***@proxy:3128"[..])
    );
    assert!(part.redacted);
    assert_eq!(one("X_Corp_Staff_Id=7").value, None);
    assert!(!one("CORP_IDS=7").redacted);
    for plain in [
        "PWD=/tmp",
        "SSH_ASKPASS=/usr/bin/ask",
        "SSH_AUTH_SOCK=/a",
        "KEYBOARD=de",
        "TOKEN_FILE=/t",
    ] {
        assert!(!one(plain).redacted, "{plain}");
    }
    for secret in [
        "MYSQL_PWD=x",
        "GITHUB_TOKEN=x",
        "SSHPASS=x",
        "APP_KEY=x",
        "PASSWORD_2=x",
        "apiKey=x",
    ] {
        assert_eq!(one(secret).value, None, "{secret}");
    }
}

#[test]
fn globs() {
    for (glob, text, is) in [
        ("LD_*", "LD_PRELOAD", true),
        ("LD_*", "XLD_", false),
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("*a*b*", "xxaybz", true),
        ("*a*b*", "ba", false),
        ("a*a", "a", false),
        ("a*a", "aba", true),
    ] {
        assert_eq!(
            matches_glob(glob.as_bytes(), text.as_bytes()),
            is,
            "{glob} {text}"
        );
    }
}

#[test]
fn a_large_hostile_input_takes_linear_time() {
    let policy = policy();
    let time = |bytes: &[u8]| {
        let start = std::time::Instant::now();
        drop(policy.arguments(bytes));
        drop(policy.environment(bytes));
        start.elapsed()
    };
    for unit in [
        &b"://:"[..],
        b"=",
        b"a=",
        b"eyJ",
        b"-----BEGIN PRIVATE KEY-----",
        b"password ",
        b"Authorization:",
        b"' --password ",
    ] {
        let long = unit.repeat((64 << 10) / unit.len());
        let took = time(&long);
        // Quadratic work would take a minute and more.
        assert!(
            took < std::time::Duration::from_secs(10),
            "{took:?} for {unit:?}"
        );
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let policy = policy();
        let arguments = policy.arguments(&bytes);
        prop_assert!(arguments.redacted.len() <= arguments.strings.len());
        drop(policy.environment(&bytes));
    }

    #[test]
    fn the_secret_never_survives(secret in "[a-zA-Z0-9]{12,20}", option in "--(password|token|db-passwd|client-secret|api-key)") {
        let policy = policy();
        for line in [format!("x\0{option}\0{secret}\0"), format!("x\0{option}={secret}\0"),
            format!("sh\0-c\0x {option} {secret} y\0"), format!("sh\0-c\0x {option}='{secret}'\0")] {
            let out = policy.arguments(line.as_bytes()).strings.concat();
            prop_assert!(!out.windows(secret.len()).any(|w| w == secret.as_bytes()), "{}", line);
        }
    }
}
