//! The configuration file and its filter rules: to the configuration as meant, compiled, and printed again.

use std::cell::OnceCell;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::MemfdFlags;
use sensor::config::{self, Overrides, Sources};
use sensor::filter::Filter;

thread_local! {
    /// A file in memory: what is loaded has a path.
    static FILE: OnceCell<File> = const { OnceCell::new() };
}

/// Loads the bytes as a configuration file. What is refused must be said in words; what is taken must compile or be
/// refused by its rules, and must be the same when it is printed and loaded again.
pub fn run(bytes: &[u8]) {
    let loaded = match load(bytes) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(!errors.to_string().is_empty());
            return;
        }
    };
    if let Err(errors) = Filter::from_config(&loaded) {
        assert!(!errors.to_string().is_empty());
    }
    let text = loaded.to_toml().expect("what was read can be printed");
    let again = load(text.as_bytes())
        .unwrap_or_else(|errors| panic!("what is printed is refused: {errors}\n{text}"));
    assert_eq!(loaded.config, again.config, "{text}");
}

fn load(bytes: &[u8]) -> Result<config::Loaded, config::ConfigErrors> {
    FILE.with(|file| {
        let file = file.get_or_init(|| {
            let file = rustix::fs::memfd_create("config", MemfdFlags::CLOEXEC);
            File::from(file.expect("a file in memory"))
        });
        file.set_len(0).expect("an empty file");
        file.write_all_at(bytes, 0).expect("a file in memory");
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        config::load(&Sources::new(Some(path), Overrides::default()))
    })
}

/// Keys and values of the format.
pub const WORDS: &[&[u8]] = &[
    b"[events]\n",
    b"enabled = ",
    b"\"exec\"",
    b"\"file_create\"",
    b"[ring]\n",
    b"[hash]\n",
    b"[output]\n",
    b"[[filter.rule]]\n",
    b"id = \"a\"\n",
    b"action = \"exclude\"\n",
    b"\"aggregate\"",
    b"\"include\"",
    b"event = ",
    b"file_path = ",
    b"image_path = ",
    b"remote_ip = ",
    b"\"10.0.0.0/8\"",
    b"\"::/0\"",
    b"user = ",
    b"remote_port = ",
    b"command_line = ",
    b"\"64MiB\"",
    b"\"5s\"",
    b"\"200ms\"",
    b"true",
    b"false",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"\"\"",
    b"'''",
    b"=",
    b"\n",
    b"18446744073709551615",
    b"-1",
    b"\"*\"",
    b"\"(a|b)*$\"",
    b"\"\\u0000\"",
    b".",
];

/// Nothing, every key with its default, and the example of the documentation, whole and rule by rule.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let defaults = load(b"").expect("no configuration").to_toml();
    let page = config::docs_markdown();
    let example = page.split("```toml\n").nth(1).expect("an example");
    let example = example.split("```").next().unwrap_or_default();
    let mut seeds = vec![defaults.expect("defaults"), example.to_owned()];
    let rules = example.split("[[filter.rule]]").skip(1);
    seeds.extend(rules.map(|rule| format!("[[filter.rule]]{rule}")));
    seeds.into_iter().map(String::into_bytes).collect()
}
