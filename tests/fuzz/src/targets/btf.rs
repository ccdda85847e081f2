//! The kernel's type information: trusted no more than any other bytes.

use std::collections::HashSet;

use sensor::kernel::btf::{Btf, Named};
use sensor::kernel::layout::Resolution;

/// Parses types, resolves everything that the programs read, and looks up what the seeds have.
pub fn run(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes.to_vec()) else {
        return;
    };
    std::hint::black_box(Resolution::new(&btf));
    let names = HashSet::from(["task_struct", "inode", "pid_type", "u"]);
    for named in btf.find(&names).into_values().flatten() {
        match named {
            Named::Composite(id) => {
                std::hint::black_box(btf.size(id));
                for path in [
                    "tgid",
                    "i_rdev",
                    "se.sum_exec_runtime",
                    "loginuid.val",
                    "a.b.c",
                ] {
                    if let Some(member) = btf.member(id, path) {
                        std::hint::black_box(btf.size(member.type_id));
                    }
                }
            }
            Named::Enumeration(id) => {
                std::hint::black_box(btf.enumerator(id, "PIDTYPE_PGID"));
            }
        }
    }
}

/// A small kernel: numbers, structs within structs, a pointer, an array, a typedef, an enumeration, a bit field.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut types: Vec<u32> = Vec::new();
    let mut strings = vec![0_u8];
    let mut name = |text: &str| {
        let at = u32::try_from(strings.len()).expect("few");
        strings.extend(text.as_bytes());
        strings.push(0);
        at
    };
    let info = |kind: u32, count: u32| kind << 24 | count;
    // 1: u32, 2: u64
    types.extend([name("unsigned int"), info(1, 0), 4, 32]);
    types.extend([name("u64"), info(1, 0), 8, 64]);
    // 3: struct sched_entity, 4: kuid_t, 5: typedef of it
    types.extend([
        name("sched_entity"),
        info(4, 1),
        8,
        name("sum_exec_runtime"),
        2,
        0,
    ]);
    types.extend([0, info(4, 1), 4, name("val"), 1, 0]);
    types.extend([name("kuid_t"), info(8, 0), 4]);
    // 6: array, 7: pointer to what comes next
    types.extend([0, info(3, 0), 0, 1, 1, 16]);
    types.extend([0, info(2, 0), 8]);
    // 8: struct task_struct with a bit field
    types.extend([name("task_struct"), 1 << 31 | info(4, 6), 128]);
    types.extend([name("tgid"), 1, 0, name("pid"), 1, 32, name("se"), 3, 64]);
    types.extend([name("loginuid"), 5, 128, name("group_leader"), 7, 192]);
    types.extend([name("bit"), 1, 1 << 24 | 256]);
    // 9: enum pid_type
    types.extend([
        name("pid_type"),
        info(6, 2),
        4,
        name("PIDTYPE_PID"),
        0,
        name("PIDTYPE_PGID"),
        2,
    ]);
    // 10: union in struct inode, without a name; 11: struct inode
    types.extend([
        0,
        info(5, 2),
        8,
        name("i_nlink"),
        1,
        0,
        name("__i_nlink"),
        1,
        0,
    ]);
    types.extend([
        name("inode"),
        info(4, 3),
        64,
        0,
        10,
        0,
        name("i_rdev"),
        1,
        64,
        name("i_ino"),
        2,
        128,
    ]);
    let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("few");
    let mut whole = 0xeb9f_u16.to_ne_bytes().to_vec();
    whole.extend([1, 0]);
    for word in [24, 0, length(&types), length(&types), length(&strings)] {
        whole.extend(word.to_ne_bytes());
    }
    whole.extend(types);
    whole.extend(strings);
    vec![whole]
}
