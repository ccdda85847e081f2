//! One instance at a time: a lock file that the kernel releases when its holder dies, however it dies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Where the lock files are.
pub(crate) const FOLDER: &str = "/run/sensor";

/// Why this instance may not run.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another one does.
    #[error("already running as process {holder} (lock {path:?})")]
    Running {
        /// The lock file.
        path: PathBuf,
        /// Process id that the holder wrote, as text.
        holder: String,
    },
    /// The scope is not there.
    #[error("scope {path:?}")]
    Scope {
        /// The cgroup.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock file cannot be made.
    #[error("lock file {path:?}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Holds the lock as long as it lives.
#[derive(Debug)]
pub(crate) struct Instance {
    _lock: Flock<File>,
}

impl Instance {
    /// Takes the lock of the whole host, or that of a scoped cgroup: sensors of different scopes do not see each other.
    ///
    /// # Errors
    /// [`InstanceError`].
    pub(crate) fn claim(folder: &Path, scope: Option<&Path>) -> Result<Self, InstanceError> {
        let name = match scope {
            None => "lock".to_owned(),
            Some(scope) => {
                let id = fs::metadata(scope)
                    .map_err(|source| InstanceError::Scope {
                        path: scope.to_owned(),
                        source,
                    })?
                    .ino();
                format!("lock-scope-{id}")
            }
        };
        let path = folder.join(name);
        let io = |source| InstanceError::Io {
            path: path.clone(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(io)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0).map_err(io)?;
                lock.rewind().map_err(io)?;
                writeln!(lock, "{}", std::process::id()).map_err(io)?;
                Ok(Self { _lock: lock })
            }
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                // What cannot be read is left out of the message; the lock is what counts.
                let read = file.take(32).read_to_string(&mut holder);
                let holder = read
                    .ok()
                    .map(|_| holder.trim().to_owned())
                    .unwrap_or_default();
                Err(InstanceError::Running { path, holder })
            }
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_runs_and_a_dead_one_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = Instance::claim(folder.path(), None).unwrap();
        let error = Instance::claim(folder.path(), None).unwrap_err();
        assert!(
            matches!(&error, InstanceError::Running { holder, .. }
                if *holder == std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        Instance::claim(folder.path(), None).unwrap();
    }

    #[test]
    fn scopes_do_not_exclude_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _host = Instance::claim(folder.path(), None).unwrap();
        let _one = Instance::claim(folder.path(), Some(one.path())).unwrap();
        let _two = Instance::claim(folder.path(), Some(two.path())).unwrap();
        Instance::claim(folder.path(), Some(one.path())).unwrap_err();
        let missing = Instance::claim(folder.path(), Some(&one.path().join("gone"))).unwrap_err();
        assert!(missing.to_string().starts_with("scope "), "{missing}");
        assert_eq!(
            crate::run::RunError::from(missing).status(),
            crate::exit::ExitStatus::Usage
        );
    }
}
