//! Where the tests run: this host, where the sensor sees one cgroup only, or a guest, which is its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::unistd::Uid;

/// What the tests know of the machine.
#[derive(Debug)]
pub struct Place {
    /// The machine is a guest of `cargo xtask vm` ($SENSOR_GUEST): the sensor may see all of it.
    pub guest: bool,
    /// Backend to force ($SENSOR_BACKEND); on hosts the one that works everywhere.
    pub backend: String,
    /// The sensor ($SENSOR_BIN, else beside the folder of this program).
    pub sensor: PathBuf,
    /// Cgroup whose processes the tests watch; this program is in it.
    pub scope: PathBuf,
    /// Cgroup for the sensor, and for processes that a scoped sensor must not see.
    pub outside: PathBuf,
}

static PLACE: OnceLock<Place> = OnceLock::new();

impl Place {
    /// Looks around, makes two cgroups and enters the one that is watched. Once per program.
    ///
    /// # Errors
    /// What is missing, in one line: rights, cgroup v2, the sensor.
    pub fn enter() -> Result<&'static Self, String> {
        if !Uid::effective().is_root() {
            return Err(
                "the end-to-end tests load eBPF programs and make cgroups: run them as root"
                    .to_owned(),
            );
        }
        let guest = std::env::var_os("SENSOR_GUEST").is_some();
        let backend = std::env::var("SENSOR_BACKEND").unwrap_or_else(|_| "syscall-exit".to_owned());
        let sensor = match std::env::var_os("SENSOR_BIN") {
            Some(path) => PathBuf::from(path),
            None => beside_this_program()?,
        };
        if !sensor.is_file() {
            return Err(format!(
                "{} is not there: build it with `cargo build -p sensor`, or name it in SENSOR_BIN",
                sensor.display()
            ));
        }
        let mount = match cgroup2_mount() {
            // A guest without version 2: no scope, and the sensor in a group of its own as ever.
            Err(_) if guest => cgroup_mount("cgroup")?,
            found => found?,
        };
        let base = mount.join(format!("sensor-tests-{}", std::process::id()));
        let (scope, outside) = (base.join("scope"), base.join("outside"));
        for folder in [&scope, &outside] {
            fs::create_dir_all(folder)
                .map_err(|error| format!("cannot make cgroup {}: {error}", folder.display()))?;
        }
        fs::write(scope.join("cgroup.procs"), "0")
            .map_err(|error| format!("cannot enter cgroup {}: {error}", scope.display()))?;
        Ok(PLACE.get_or_init(|| Self {
            guest,
            backend,
            sensor,
            scope,
            outside,
        }))
    }

    /// The place, once entered.
    pub fn here() -> &'static Self {
        PLACE.get().expect("Place::enter comes first")
    }

    /// How long a test waits for something that must happen.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(if self.guest { 90 } else { 20 })
    }

    /// Whether the backend sees what the system calls' exit does not: mknod, mkdir, link, symlink, the release of files.
    pub fn sees_vfs(&self) -> bool {
        self.backend != "syscall-exit"
    }

    /// Leaves the cgroups and removes them.
    pub fn leave(&self) {
        let base = self.scope.parent().expect("a folder of cgroups");
        let mount = base.parent().expect("a mounted hierarchy");
        if let Err(error) = fs::write(mount.join("cgroup.procs"), "0") {
            eprintln!("cannot leave {}: {error}", self.scope.display());
        }
        for folder in [&self.scope, &self.outside, &base.to_path_buf()] {
            remove_cgroup(folder);
        }
    }
}

/// Removes a cgroup with those below it; processes that are just ending delay it.
pub fn remove_cgroup(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    for _ in 0..100 {
        match fs::remove_dir(folder) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(_busy) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    eprintln!("cgroup {} stays: it is in use", folder.display());
}

fn beside_this_program() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    own.parent()
        .and_then(Path::parent)
        .map(|folder| folder.join("sensor"))
        .ok_or_else(|| "this program lies in no build folder: set SENSOR_BIN".to_owned())
}

/// Where cgroup v2 is mounted; on hosts with both versions beside version 1.
///
/// # Errors
/// It is not mounted, or /proc is not.
pub fn cgroup2_mount() -> Result<PathBuf, String> {
    cgroup_mount("cgroup2").map_err(|_none| "no cgroup v2 hierarchy is mounted".to_owned())
}

/// The first mount of this type.
fn cgroup_mount(wanted: &str) -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|error| error.to_string())?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (place, kind) = (fields.next()?, fields.next()?);
            (kind == wanted).then(|| PathBuf::from(place))
        })
        .ok_or_else(|| format!("no {wanted} is mounted"))
}
