//! `sensor install`, `sensor uninstall`: the service on hosts without a package. Both are a list of steps; doing it twice is
//! doing it once. Refuse to touch what a package installed, and to start anything.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::args::{InstallArgs, UninstallArgs};
use crate::command::Streams;
use crate::exit::ExitStatus;

/// The unit, as packages ship it.
const UNIT: &str = include_str!("../../../packaging/systemd/sensor.service");
/// The configuration, as packages ship it.
const CONFIGURATION: &str = include_str!("../../../packaging/sensor.toml");
/// Where packages put the program; the unit says so.
const PACKAGED_PROGRAM: &str = "/usr/sbin/sensor";
/// Where packages put the unit.
const PACKAGED_UNITS: [&str; 2] = [
    "usr/lib/systemd/system/sensor.service",
    "lib/systemd/system/sensor.service",
];
/// Where an administrator's own programs are.
const PROGRAM: &str = "/usr/local/sbin/sensor";
/// Where an administrator's own units are.
const UNIT_FILE: &str = "/etc/systemd/system/sensor.service";
const CONFIGURATION_FILE: &str = "/etc/sensor/sensor.toml";
/// Folders, with their modes; later ones may stand in earlier ones.
const FOLDERS: [(&str, u32); 5] = [
    ("/etc/sensor", 0o750),
    ("/etc/sensor/conf.d", 0o750),
    ("/etc/sensor/tls", 0o700),
    ("/var/lib/sensor", 0o700),
    ("/var/log/sensor", 0o700),
];
/// Folders that `--purge` takes away.
const PURGED: [&str; 3] = ["/etc/sensor", "/var/lib/sensor", "/var/log/sensor"];
/// There while systemd is process 1.
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{path:?} is there: a package has installed sensor, use the package manager")]
    Packaged { path: PathBuf },
    #[error("--root {0:?} is not a folder")]
    NoRoot(PathBuf),
    #[error("{doing} {path:?}: {source}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("`systemctl {arguments}` failed: {said}")]
    Systemctl { arguments: String, said: String },
}

impl InstallError {
    fn status(&self) -> ExitStatus {
        match self {
            Self::Packaged { .. } | Self::NoRoot(_) => ExitStatus::Usage,
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ExitStatus::Privilege
            }
            Self::Io { .. } => ExitStatus::Output,
            Self::Systemctl { .. } => ExitStatus::Internal,
        }
    }
}

/// One thing to do; paths are absolute, below the root.
enum Step {
    Folder {
        path: &'static str,
        mode: u32,
    },
    Program {
        path: &'static str,
    },
    File {
        path: &'static str,
        mode: u32,
        content: String,
        keep: bool,
    },
    Remove {
        path: &'static str,
    },
    RemoveAll {
        path: &'static str,
    },
    Systemctl {
        arguments: &'static [&'static str],
    },
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path, mode } => write!(out, "folder  {path} (mode {mode:04o})"),
            Self::Program { path } => write!(out, "program {path}"),
            Self::File { path, mode, .. } => write!(out, "file    {path} (mode {mode:04o})"),
            Self::Remove { path } => write!(out, "remove  {path}"),
            Self::RemoveAll { path } => write!(out, "remove  {path} and all that is in it"),
            Self::Systemctl { arguments } => {
                write!(out, "run     systemctl {}", arguments.join(" "))
            }
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Yes,
    /// It was so already.
    Before,
    /// Something else is there, and stays.
    Kept,
}

impl Done {
    const fn word(self) -> &'static str {
        match self {
            Self::Yes => "done",
            Self::Before => "as it was",
            Self::Kept => "kept",
        }
    }
}

/// Sets the service up.
pub fn install(args: &InstallArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let mut steps: Vec<Step> = FOLDERS
        .iter()
        .map(|(path, mode)| Step::Folder { path, mode: *mode })
        .collect();
    steps.push(Step::Program { path: PROGRAM });
    steps.push(Step::File {
        path: CONFIGURATION_FILE,
        mode: 0o640,
        content: CONFIGURATION.to_owned(),
        keep: true,
    });
    steps.push(Step::File {
        path: UNIT_FILE,
        mode: 0o644,
        content: UNIT.replace(PACKAGED_PROGRAM, PROGRAM),
        keep: false,
    });
    let runs = systemd_runs(&args.root);
    if runs {
        steps.push(Step::Systemctl {
            arguments: &["daemon-reload"],
        });
    }
    let status = go(&args.root, args.dry_run, &steps, streams);
    if status == ExitStatus::Ok && !args.dry_run && runs {
        return streams.answer("start it, now and at every boot: systemctl enable --now sensor\n");
    }
    status
}

/// Takes the service away.
pub fn uninstall(args: &UninstallArgs, streams: &mut Streams<'_>) -> ExitStatus {
    let mut steps = Vec::new();
    let runs = systemd_runs(&args.root);
    let unit = below(&args.root, UNIT_FILE);
    if runs && unit.exists() {
        steps.push(Step::Systemctl {
            arguments: &["disable", "--now", "sensor.service"],
        });
    }
    steps.push(Step::Remove { path: UNIT_FILE });
    steps.push(Step::Remove { path: PROGRAM });
    if args.purge {
        steps.extend(PURGED.map(|path| Step::RemoveAll { path }));
    }
    if runs {
        steps.push(Step::Systemctl {
            arguments: &["daemon-reload"],
        });
    }
    go(&args.root, args.dry_run, &steps, streams)
}

/// Does or prints the steps.
fn go(root: &Path, dry_run: bool, steps: &[Step], streams: &mut Streams<'_>) -> ExitStatus {
    let mut told = String::new();
    let mut failed = None;
    if let Err(error) = allowed(root) {
        failed = Some(error);
    } else {
        for step in steps {
            if dry_run {
                told.push_str(&format!("{step}\n"));
                continue;
            }
            match perform(root, step) {
                Ok(done) => told.push_str(&format!("{step}: {}\n", done.word())),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
    }
    let status = streams.answer(&told);
    match failed {
        None => status,
        Some(error) => {
            streams.complain(&format!("sensor: {error}"));
            error.status()
        }
    }
}

fn allowed(root: &Path) -> Result<(), InstallError> {
    if !root.is_dir() {
        return Err(InstallError::NoRoot(root.to_owned()));
    }
    let packaged = PACKAGED_UNITS.map(|path| root.join(path));
    match packaged.into_iter().find(|path| path.exists()) {
        Some(path) => Err(InstallError::Packaged { path }),
        None => Ok(()),
    }
}

/// Only of the running system, never of an image.
fn systemd_runs(root: &Path) -> bool {
    root == Path::new("/") && Path::new(SYSTEMD_RUNS).is_dir()
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn perform(root: &Path, step: &Step) -> Result<Done, InstallError> {
    let io = |doing, path: &Path| {
        let path = path.to_owned();
        move |source| InstallError::Io {
            doing,
            path,
            source,
        }
    };
    match step {
        Step::Folder { path, mode } => {
            let path = below(root, path);
            folder(&path, *mode).map_err(io("cannot make the folder", &path))
        }
        Step::Program { path } => {
            let path = below(root, path);
            program(&path).map_err(io("cannot copy this program to", &path))
        }
        Step::File {
            path,
            mode,
            content,
            keep,
        } => {
            let path = below(root, path);
            file(&path, *mode, content, *keep).map_err(io("cannot write", &path))
        }
        Step::Remove { path } => {
            let path = below(root, path);
            removed(fs::remove_file(&path)).map_err(io("cannot remove", &path))
        }
        Step::RemoveAll { path } => {
            let path = below(root, path);
            removed(fs::remove_dir_all(&path)).map_err(io("cannot remove", &path))
        }
        Step::Systemctl { arguments } => systemctl(arguments).map(|()| Done::Yes),
    }
}

fn folder(path: &Path, mode: u32) -> io::Result<Done> {
    if let Ok(there) = fs::metadata(path)
        && there.is_dir()
    {
        // An administrator's mode may be tighter or wider on purpose.
        return Ok(if there.permissions().mode() & 0o7777 == mode {
            Done::Before
        } else {
            Done::Kept
        });
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(mode).create(path)?;
    // The umask may have taken from it.
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(Done::Yes)
}

fn file(path: &Path, mode: u32, content: &str, keep: bool) -> io::Result<Done> {
    match File::open(path) {
        Ok(there) => {
            let mut text = Vec::new();
            // One byte more than it should have tells a longer one.
            let most = u64::try_from(content.len())
                .unwrap_or(u64::MAX)
                .saturating_add(1);
            there.take(most).read_to_end(&mut text)?;
            if text == content.as_bytes() {
                return Ok(Done::Before);
            }
            if keep {
                return Ok(Done::Kept);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    replace(path, mode, &mut content.as_bytes())?;
    Ok(Done::Yes)
}

fn program(path: &Path) -> io::Result<Done> {
    let own = std::env::current_exe()?;
    if let (Ok(own), Ok(there)) = (fs::canonicalize(&own), fs::canonicalize(path))
        && own == there
    {
        return Ok(Done::Before);
    }
    if same(&own, path).unwrap_or(false) {
        return Ok(Done::Before);
    }
    replace(path, 0o755, &mut File::open(own)?)?;
    Ok(Done::Yes)
}

/// Whether two files have the same content, and the second can be executed.
fn same(own: &Path, there: &Path) -> io::Result<bool> {
    let (mut own, mut there) = (File::open(own)?, File::open(there)?);
    let (meta, other) = (own.metadata()?, there.metadata()?);
    if meta.len() != other.len() || other.permissions().mode() & 0o7777 != 0o755 {
        return Ok(false);
    }
    let (mut one, mut two) = (vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]);
    let mut left = usize::try_from(meta.len()).unwrap_or(usize::MAX);
    while left > 0 {
        let part = left.min(COMPARED_BYTES);
        let (Some(one), Some(two)) = (one.get_mut(..part), two.get_mut(..part)) else {
            return Ok(false);
        };
        io::Read::read_exact(&mut own, one)?;
        io::Read::read_exact(&mut there, two)?;
        if one != two {
            return Ok(false);
        }
        left -= part;
    }
    Ok(true)
}

/// What is compared at once.
const COMPARED_BYTES: usize = 1 << 16;

/// Puts a file in place as a whole: a program that runs keeps its old one.
fn replace(path: &Path, mode: u32, content: &mut dyn io::Read) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    io::copy(content, &mut file)?;
    file.flush()?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn removed(result: io::Result<()>) -> io::Result<Done> {
    match result {
        Ok(()) => Ok(Done::Yes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Done::Before),
        Err(error) => Err(error),
    }
}

fn systemctl(arguments: &[&str]) -> Result<(), InstallError> {
    let failed = |said: String| InstallError::Systemctl {
        arguments: arguments.join(" "),
        said,
    };
    let output = Command::new("systemctl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(format!("{}: {}", output.status, said.trim())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(what: impl FnOnce(&mut Streams<'_>) -> ExitStatus) -> (ExitStatus, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let status = what(&mut Streams {
            out: &mut out,
            err: &mut err,
        });
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status, text(out), text(err))
    }

    fn installed(root: &Path, dry_run: bool) -> (ExitStatus, String, String) {
        let args = InstallArgs {
            root: root.to_owned(),
            dry_run,
        };
        run(|streams| install(&args, streams))
    }

    fn uninstalled(root: &Path, purge: bool) -> (ExitStatus, String, String) {
        let args = UninstallArgs {
            root: root.to_owned(),
            purge,
            dry_run: false,
        };
        run(|streams| uninstall(&args, streams))
    }

    fn mode(root: &Path, path: &str) -> u32 {
        let data = fs::metadata(below(root, path)).unwrap();
        data.permissions().mode() & 0o7777
    }

    #[test]
    fn a_root_gets_program_unit_configuration_and_folders() {
        let root = tempfile::tempdir().unwrap();
        let (status, out, err) = installed(root.path(), false);
        assert_eq!((status, err.as_str()), (ExitStatus::Ok, ""), "{out}");
        for (path, expected) in FOLDERS {
            assert_eq!(mode(root.path(), path), expected, "{path}");
        }
        assert_eq!(mode(root.path(), PROGRAM), 0o755);
        assert_eq!(mode(root.path(), CONFIGURATION_FILE), 0o640);
        let own = fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let copy = fs::metadata(below(root.path(), PROGRAM)).unwrap();
        assert_eq!(own.len(), copy.len());
        let unit = fs::read_to_string(below(root.path(), UNIT_FILE)).unwrap();
        assert!(
            unit.contains("\nExecStart=/usr/local/sbin/sensor run\n"),
            "{unit}"
        );
        assert!(unit.contains("\nExecReload=/usr/local/sbin/sensor reload\n"));
        assert!(!unit.contains("=/usr/sbin/"), "{unit}");
        let left: Vec<_> = fs::read_dir(root.path().join("usr/local/sbin"))
            .unwrap()
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn the_second_time_changes_nothing_and_keeps_what_was_changed() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(installed(root.path(), false).0, ExitStatus::Ok);
        let configuration = below(root.path(), CONFIGURATION_FILE);
        fs::write(&configuration, "[hash]\nmd5 = false\n").unwrap();
        let (status, out, _) = installed(root.path(), false);
        assert_eq!(status, ExitStatus::Ok);
        assert!(
            out.contains("/etc/sensor/sensor.toml (mode 0640): kept\n"),
            "{out}"
        );
        assert!(
            out.contains("sensor.service (mode 0644): as it was\n"),
            "{out}"
        );
        assert_eq!(
            fs::read_to_string(&configuration).unwrap(),
            "[hash]\nmd5 = false\n"
        );
    }

    #[test]
    fn a_dry_run_says_all_and_does_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (status, out, _) = installed(root.path(), true);
        assert_eq!(status, ExitStatus::Ok);
        for line in [
            "folder  /var/lib/sensor (mode 0700)\n",
            "program /usr/local/sbin/sensor\n",
            "file    /etc/sensor/sensor.toml (mode 0640)\n",
        ] {
            assert!(out.contains(line), "{line}{out}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_taken_away_leaves_configuration_and_state_unless_purged() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(installed(root.path(), false).0, ExitStatus::Ok);
        let spool = below(root.path(), "/var/lib/sensor/spool");
        fs::write(&spool, "x").unwrap();
        assert_eq!(uninstalled(root.path(), false).0, ExitStatus::Ok);
        for gone in [PROGRAM, UNIT_FILE] {
            assert!(!below(root.path(), gone).exists(), "{gone}");
        }
        assert!(spool.exists() && below(root.path(), CONFIGURATION_FILE).exists());
        let (status, out, _) = uninstalled(root.path(), true);
        assert_eq!(status, ExitStatus::Ok);
        assert!(
            out.contains("remove  /usr/local/sbin/sensor: as it was\n"),
            "{out}"
        );
        for gone in PURGED {
            assert!(!below(root.path(), gone).exists(), "{gone}");
        }
    }

    #[test]
    fn what_a_package_installed_is_not_touched() {
        for unit in PACKAGED_UNITS {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join(unit);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            for (status, _, err) in [
                installed(root.path(), false),
                uninstalled(root.path(), true),
            ] {
                assert_eq!(status, ExitStatus::Usage);
                assert!(err.contains("use the package manager"), "{err}");
            }
        }
    }

    #[test]
    fn a_root_that_is_none_and_one_that_cannot_be_written_are_told() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        let (status, _, err) = installed(&file, false);
        assert_eq!(status, ExitStatus::Usage);
        assert!(err.contains("is not a folder"), "{err}");
        // In the place of a folder stands a file.
        fs::write(root.path().join("etc"), "").unwrap();
        let (status, _, err) = installed(root.path(), false);
        assert_eq!(status, ExitStatus::Output);
        assert!(err.contains("cannot make the folder"), "{err}");
    }
}
