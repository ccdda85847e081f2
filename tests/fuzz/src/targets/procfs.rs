//! Texts of /proc, which other processes have a hand in: names, paths of mounts, maps of ids.

use std::hint::black_box;

use sensor::procfs::{Stat, Status, parse};

/// Reads the bytes as each of the files. None of them may be so wrong that it panics.
pub fn run(bytes: &[u8]) {
    look(Stat::parse(bytes));
    look(Status::parse(bytes));
    look(parse::cgroup(bytes));
    if let Ok(mounts) = parse::mountinfo(bytes) {
        assert!(mounts.len() <= bytes.len());
    }
    look(parse::id_map(bytes));
    look(parse::namespace_link(bytes));
    look(parse::number("number", bytes));
    look(parse::uuid("uuid", bytes));
    look(parse::boot_time_seconds(bytes));
    if let Ok(ids) = parse::process_ids(bytes) {
        assert!(ids.len() <= bytes.len());
    }
}

/// Keeps the compiler from leaving out what nobody uses.
fn look<T>(value: T) {
    drop(black_box(value));
}

/// Words that these files have.
pub const WORDS: &[&[u8]] = &[
    b" ",
    b"\t",
    b"\n",
    b":",
    b"0::/",
    b"(",
    b") ",
    b" - ",
    b"\\040",
    b"\\012",
    b"mnt:[",
    b"]",
    b"Uid:\t",
    b"Gid:\t",
    b"Groups:\t",
    b"NSpid:\t",
    b"CapInh:\t",
    b"CapPrm:\t",
    b"CapEff:\t",
    b"CapBnd:\t",
    b"CapAmb:\t",
    b"TracerPid:\t",
    b"btime ",
    b"4294967295",
    b"18446744073709551615",
    b"-1",
    b"000001ffffffffff",
    b"0:25 / ",
    b"overlay",
    b"shared:1",
];

/// A whole example of each file (of no process that runs).
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "4242 (a ) (b) S 1 4242 4242 34816 4242 4194304 100 0 0 0 5 7 0 0 20 0 1 0 987654 1000000 200 \
         18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        "Name:\ta b\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nNgid:\t0\nPid:\t42\nPPid:\t1\nTracerPid:\t0\n\
         Uid:\t1000\t1000\t1000\t1000\nGid:\t50\t50\t50\t50\nFDSize:\t64\nGroups:\t50 1000 \nNStgid:\t42\t7\n\
         NSpid:\t42\t7\nNSpgid:\t42\t7\nNSsid:\t42\t7\nVmRSS:\t 1234 kB\nThreads:\t1\nCapInh:\t0000000000000000\n\
         CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n",
        "12:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/a:b\n0::/system.slice/docker-0123.scope\n",
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n\
         36 22 0:31 /a\\040b /mnt/with\\040blank ro master:2 propagate_from:3 - overlay none rw,lowerdir=/l\n",
        "         0     100000      65536\n     65536          0          1\n",
        "mnt:[4026531841]",
        "4294967295",
        "8e5f4c1e-8a3c-4a0b-9f11-3a1f6d1b2c3d\n",
        "cpu  1 2 3\nintr 1\nctxt 5\nbtime 1767225600\nprocesses 7\n",
        "1\n42\n4242\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
