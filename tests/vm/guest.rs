//! What every other suite takes for granted in a guest of `cargo xtask vm`. Run there only.

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::os::unix::process::CommandExt as _;
    use std::path::Path;
    use std::process::Command;

    use nix::mount::{MsFlags, mount, umount};

    fn filesystem_of(place: &str) -> String {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut found = String::new();
        for line in mounts.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            if fields[1] == place {
                found = fields[2].to_owned();
            }
        }
        found
    }

    #[test]
    fn file_systems_are_mounted() {
        for (place, kind) in [
            ("/proc", "proc"),
            ("/sys", "sysfs"),
            ("/dev", "devtmpfs"),
            ("/tmp", "tmpfs"),
            ("/sys/fs/cgroup", "cgroup2"),
            ("/sys/fs/bpf", "bpf"),
            ("/sys/kernel/tracing", "tracefs"),
            ("/sys/kernel/security", "securityfs"),
            ("/sys/kernel/debug", "debugfs"),
        ] {
            assert_eq!(filesystem_of(place), kind, "{place}");
        }
    }

    #[test]
    fn the_kernel_has_btf_and_says_its_lsm_list() {
        let mut magic = [0; 2];
        fs::File::open("/sys/kernel/btf/vmlinux")
            .unwrap()
            .read_exact(&mut magic)
            .unwrap();
        assert_eq!(u16::from_le_bytes(magic), 0xeb9f);
        assert!(
            fs::read_to_string("/sys/kernel/security/lsm")
                .unwrap()
                .contains("capability")
        );
    }

    #[test]
    fn an_unprivileged_program_runs_and_reaches_its_files() {
        let output = Command::new("/bin/sh")
            .args(["-c", "id -u; id -un"])
            .uid(1000)
            .gid(1000)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "1000\ntester\n",
            "{output:?}"
        );
    }

    #[test]
    fn loopback_works_for_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.write_all(b"x").unwrap();
            let mut byte = [0];
            server.read_exact(&mut byte).unwrap();
            assert_eq!(byte, *b"x");
        }
    }

    #[test]
    fn a_cgroup_can_be_made_and_entered() {
        let group = Path::new("/sys/fs/cgroup/guest-test");
        fs::create_dir(group).unwrap();
        let mut child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
        let membership = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir(group).unwrap();
        assert_eq!(membership.trim(), "0::/guest-test");
    }

    #[test]
    fn overlays_can_be_mounted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("lower/file"), "below").unwrap();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            path("lower"),
            path("upper"),
            path("work")
        );
        mount(
            Some("overlay"),
            path("merged").as_str(),
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(path("merged/file")).unwrap(), "below");
        umount(path("merged").as_str()).unwrap();
    }

    #[test]
    fn real_modules_are_there_and_not_loaded() {
        let loaded = fs::read_to_string("/proc/modules").unwrap();
        for name in ["dummy", "loop"] {
            let path = format!("/lib/test-modules/{name}.ko");
            let head = fs::read(&path).unwrap();
            assert_eq!(&head[..4], b"\x7fELF", "{path}");
            assert!(
                !loaded
                    .lines()
                    .any(|line| line.split(' ').next() == Some(name)),
                "{name} is loaded"
            );
        }
    }

    #[test]
    fn the_root_folder_lets_everybody_through() {
        let root = fs::metadata("/").unwrap();
        assert_eq!(root.permissions().mode() & 0o7777, 0o755);
        assert_eq!(root.uid(), 0);
        assert_eq!(
            fs::metadata("/tmp").unwrap().permissions().mode() & 0o7777,
            0o1777
        );
    }

    #[test]
    fn the_sensor_is_a_static_program() {
        let program = std::env::var("SENSOR_BIN").unwrap();
        let output = Command::new(&program).arg("--version").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(
            !Path::new("/lib64").exists(),
            "the guest has a loader: a dynamic program would pass"
        );
    }
}
