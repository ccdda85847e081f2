//! Disks of guests: a file of this machine with an ext4 in it.

use std::fs::{self, File};
use std::path::Path;

use crate::apt::{self, Apt};
use crate::command::quiet;
use crate::place::Place;

/// The Debian release that mke2fs is from.
const SUITE: &str = "bookworm";
/// Where it is unpacked, below target/vm.
const FOLDER: &str = "e2fsprogs-1";
/// Length of a disk; what nobody wrote takes no room.
const BYTES: u64 = 256 << 20;

/// Makes a disk with an empty file system.
pub(super) fn make(place: &Place, disk: &Path) -> anyhow::Result<()> {
    let vm = place.target.join("vm");
    let root = vm.join(FOLDER);
    if !root.exists() {
        println!("fetching mke2fs");
        let apt = Apt::open(&vm.join(format!("apt-{SUITE}")), &[SUITE])?;
        let fresh = tempfile::tempdir_in(&vm)?;
        apt.unpack_with_dependencies(SUITE, &["e2fsprogs"], fresh.path())?;
        fs::rename(fresh.keep(), &root)?;
    }
    File::create(disk)?.set_len(BYTES)?;
    quiet(
        apt::program(&root, Path::new("sbin/mke2fs"))?
            .args(["-q", "-F", "-t", "ext4"])
            .arg(disk),
    )
}
