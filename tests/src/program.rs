//! Programs that the tests execute: a few instructions in an ELF file, so that a copy is small, its every byte is known, and
//! nothing (no loader, no library) happens in it that a test did not ask for.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What the program does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Reads one byte from standard input (its end will do), then ends with this code.
    Wait(u8),
    /// Maps a page of the file at descriptor 0 for shared writing, closes the descriptor, reads one byte from
    /// descriptor 1, writes `mmap` into the page and ends with code 0.
    MapWriter,
    /// Starts a second thread, ends the first with code 5; the second reads one byte from standard input and ends with code 7.
    LeaderEndsFirst,
}

/// Length of the ELF header and the one program header.
const HEADERS: u64 = 64 + 56;
/// Where the file is mapped.
const BASE: u64 = 0x40_0000;

impl Program {
    /// The bytes of the file; `tail` follows the program and makes its content distinct.
    #[must_use]
    pub fn bytes(self, tail: &[u8]) -> Vec<u8> {
        let code = self.code();
        let length = HEADERS + u64::try_from(code.len()).expect("a short program");
        let mut file = Vec::new();
        file.extend(b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00");
        file.extend(2_u16.to_le_bytes()); // ET_EXEC
        file.extend(62_u16.to_le_bytes()); // EM_X86_64
        file.extend(1_u32.to_le_bytes());
        file.extend((BASE + HEADERS).to_le_bytes()); // entry
        file.extend(64_u64.to_le_bytes()); // program headers
        file.extend(0_u64.to_le_bytes()); // no sections
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 0, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes()); // PT_LOAD
        file.extend(5_u32.to_le_bytes()); // readable, executable
        for word in [0, BASE, BASE, length, length, 0x1000] {
            file.extend(word.to_le_bytes());
        }
        file.extend(code);
        file.extend(tail);
        file
    }

    /// Writes the program to a file that everybody may execute.
    pub fn write(self, path: &Path, tail: &[u8]) {
        fs::write(path, self.bytes(tail)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes the program into `folder` under `name`.
    #[must_use]
    pub fn place(self, folder: &Path, name: &str, tail: &[u8]) -> PathBuf {
        let path = folder.join(name);
        self.write(&path, tail);
        path
    }

    /// Machine code for x86-64, the one architecture that the tests run on.
    fn code(self) -> Vec<u8> {
        let mut code = Vec::new();
        match self {
            Self::Wait(status) => {
                read_byte(&mut code, 0);
                end(&mut code, 231, status);
            }
            Self::MapWriter => {
                code.extend(b"\x31\xff"); // address: any
                code.extend(b"\xbe\x00\x10\x00\x00"); // one page
                code.extend(b"\xba\x03\x00\x00\x00"); // read, write
                code.extend(b"\x41\xba\x01\x00\x00\x00"); // shared
                code.extend(b"\x45\x31\xc0\x45\x31\xc9"); // descriptor 0, offset 0
                code.extend(b"\xb8\x09\x00\x00\x00\x0f\x05"); // mmap
                code.extend(b"\x48\x89\xc3"); // kept in rbx
                code.extend(b"\x31\xff\xb8\x03\x00\x00\x00\x0f\x05"); // close
                read_byte(&mut code, 1);
                code.extend(b"\xc7\x03mmap"); // into the page
                end(&mut code, 231, 0);
            }
            Self::LeaderEndsFirst => {
                // CLONE_VM | FS | FILES | SIGHAND | THREAD, on the lower part of the same stack.
                code.extend(b"\xbf\x00\x0f\x01\x00");
                code.extend(b"\x48\x8d\xb4\x24\x00\xf0\xff\xff");
                code.extend(b"\x31\xd2\x45\x31\xd2\x45\x31\xc0");
                code.extend(b"\xb8\x38\x00\x00\x00\x0f\x05"); // clone
                code.extend(b"\x85\xc0");
                let mut first = Vec::new();
                end(&mut first, 60, 5);
                code.push(0x74); // the new thread goes on behind what the first does
                code.push(u8::try_from(first.len()).expect("a short jump"));
                code.extend(first);
                read_byte(&mut code, 0);
                end(&mut code, 60, 7);
            }
        }
        code
    }
}

fn read_byte(code: &mut Vec<u8>, descriptor: u8) {
    code.extend([0xbf, descriptor, 0, 0, 0]);
    code.extend(b"\x48\x8d\x74\x24\xf8"); // below the stack pointer
    code.extend(b"\xba\x01\x00\x00\x00"); // one byte
    code.extend(b"\x31\xc0\x0f\x05"); // read
}

/// 60 ends the thread, 231 the process.
fn end(code: &mut Vec<u8>, call: u8, status: u8) {
    code.extend([0xbf, status, 0, 0, 0]);
    code.extend([0xb8, call, 0, 0, 0, 0x0f, 0x05]);
}

/// SHA-256 as lower-case hexadecimal digits.
#[must_use]
pub fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// MD5 as lower-case hexadecimal digits.
#[must_use]
pub fn md5(content: &[u8]) -> String {
    use md5::{Digest as _, Md5};
    hex(&Md5::digest(content))
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn check(program: Program, code: i32) {
        let folder = tempfile::tempdir().unwrap();
        let path = program.place(folder.path(), "program", b"tail");
        let status = Command::new(path).stdin(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{program:?}: {status}");
    }

    #[test]
    fn programs_end_as_they_say() {
        check(Program::Wait(0), 0);
        check(Program::Wait(42), 42);
    }

    #[test]
    fn the_leader_ends_and_the_process_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = Program::LeaderEndsFirst.place(folder.path(), "program", b"");
        let mut child = Command::new(path).stdin(Stdio::piped()).spawn().unwrap();
        let stat = format!("/proc/{}/stat", child.id());
        crate::wait_for(
            "the leader's end",
            std::time::Duration::from_secs(10),
            || {
                fs::read_to_string(&stat)
                    .unwrap()
                    .contains(") Z ")
                    .then_some(())
            },
        );
        assert!(child.try_wait().unwrap().is_none(), "the process ended");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
