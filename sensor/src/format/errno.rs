//! Errors of the kernel by name.

use nix::errno::Errno;

/// Name of an error number, such as `ECONNREFUSED`, with its meaning; none where Linux has no such number.
pub(super) fn name(number: u32) -> Option<(String, &'static str)> {
    let errno = Errno::from_raw(i32::try_from(number).ok()?);
    (errno != Errno::UnknownErrno).then(|| (format!("{errno:?}"), errno.desc()))
}
