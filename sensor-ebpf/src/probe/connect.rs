//! A socket connected, or failed to.
//!
//! TCP: `inet_sock_set_state(sk, old, new)` on every backend. Its end may come in softirq, in any task: who began it
//! is kept by socket. What fails before a SYN is sent, datagram sockets and unix sockets: entry and return of the
//! protocol's connect function, called with an address that is already in the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, ProbeContext, RetProbeContext,
};
use sensor_common::counter::KernelCounter;
use sensor_common::layout::Field;
use sensor_common::map::Connecting;
use sensor_common::record::{ConnectRecord, RecordKind, Text, connect_result};

use crate::emit::{self, Draft, PATH_BYTES, Scratch, admit, fixed, lost, tailed};
use crate::map::ConnectCall;
use crate::read::{self, Access, Object, Probed, Typed};
use crate::task::{self, Actor, Current, Kept};
use crate::{layout, map};

/// include/linux/socket.h and include/uapi/linux/in.h.
pub(super) const AF_UNIX: u16 = 1;
pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;
const IPPROTO_TCP: u16 = 6;
/// `sk->sk_state`: include/net/tcp_states.h.
const TCP_ESTABLISHED: u8 = 1;
const TCP_SYN_SENT: u8 = 2;
const TCP_SYN_RECV: u8 = 3;
const TCP_CLOSE: u8 = 7;
/// `sock->state`: include/uapi/linux/net.h.
const SS_UNCONNECTED: u32 = 1;

const EINTR: i64 = 4;
const EISCONN: i64 = 106;
const ECONNABORTED: i64 = 103;
const ECONNRESET: i64 = 104;
const ETIMEDOUT: i64 = 110;
const ECONNREFUSED: i64 = 111;
const EALREADY: i64 = 114;
const EINPROGRESS: i64 = 115;

/// How far a connect call is: values of [`ConnectCall::state`].
pub(super) mod state {
    /// It began a new attempt.
    pub(crate) const FRESH: u32 = 0;
    /// It asks for the outcome of an attempt that began earlier.
    pub(crate) const AGAIN: u32 = 1;
    /// A SYN is on its way: the socket's state tells the outcome.
    pub(crate) const SENT: u32 = 2;
    /// The attempt ended within the call without an error on the socket: the return value tells it.
    pub(crate) const ENDED: u32 = 3;
}

#[btf_tracepoint(function = "inet_sock_set_state")]
pub(crate) fn tcp_state(context: BtfTracePointContext) -> Option<()> {
    let sk = Object::new(context.arg(0))?;
    let old: u64 = context.arg(1);
    let new: u64 = context.arg(2);
    match (old as u8, new as u8) {
        (TCP_CLOSE, TCP_SYN_SENT) => tcp_begins(sk),
        (TCP_SYN_SENT | TCP_SYN_RECV, TCP_ESTABLISHED) => {
            tcp_ends::<Typed>(sk, connect_result::ESTABLISHED, 0)
        }
        (TCP_SYN_SENT | TCP_SYN_RECV, TCP_CLOSE) => tcp_fails(sk),
        _ => None,
    }
}

/// In the caller's task.
#[inline(always)]
fn tcp_begins(sk: Object) -> Option<()> {
    if Typed::number::<u16>(sk, Field::SockProtocol)? != IPPROTO_TCP {
        return None;
    }
    if let Some(call) = map::lookup(&map::CONNECT_CALLS, task::thread_key()) {
        call.state = state::SENT;
    } else if layout::syscall_exit(RecordKind::Connect) {
        // No entry probe: the return of the system call must learn that a SYN was sent.
        let mut place = MaybeUninit::uninit();
        let call = read::zeroed::<ConnectCall>(&mut place);
        call.state = state::SENT;
        call.socket = Typed::pointer(sk, Field::SockSocket).map_or(0, Object::address);
        map::insert(&map::CONNECT_CALLS, task::thread_key(), call);
    }
    if !admit::<ConnectRecord>() {
        return None;
    }
    let mut place = MaybeUninit::uninit();
    let connecting = read::zeroed::<Connecting>(&mut place);
    connecting.remote_port = Typed::number::<u16>(sk, Field::SockDport).map_or(0, u16::from_be);
    connecting.family = Typed::number(sk, Field::SockFamily)?;
    connecting.net_ns = net_ns::<Typed>(sk);
    Current.describe(&mut connecting.header, &mut connecting.subject);
    connecting.header.time_boot_ns = emit::now();
    remote_address(sk, connecting.family, &mut connecting.remote_address);
    if !map::insert(&map::CONNECTING, sk.address(), connecting) {
        lost::<ConnectRecord>(KernelCounter::LostMapFull);
    }
    Some(())
}

#[inline(always)]
fn tcp_fails(sk: Object) -> Option<()> {
    let error = Typed::number::<u32>(sk, Field::SockErr).unwrap_or(0);
    if error != 0 {
        return tcp_ends::<Typed>(sk, connect_result::FAILED, error);
    }
    if let Some(call) = map::lookup(&map::CONNECT_CALLS, task::thread_key())
        && call.state == state::SENT
        && is_socket_of(call, sk)
    {
        // Still inside connect(2): its return value says why.
        call.state = state::ENDED;
        return None;
    }
    tcp_ends::<Typed>(sk, connect_result::ABORTED, 0)
}

/// At the return of a connect(2) whose attempt ended within it.
#[inline(always)]
fn tcp_ended(socket: u64, result: i32) -> Option<()> {
    let sk = Probed::pointer(Object::from_address(socket)?, Field::SocketSk)?;
    match final_error(i64::from(result)) {
        Some(error) => tcp_ends::<Probed>(sk, connect_result::FAILED, error),
        None => tcp_ends::<Probed>(sk, connect_result::ABORTED, 0),
    }
}

/// Whether a call that is under way is about this socket.
#[inline(always)]
fn is_socket_of(call: &ConnectCall, sk: Object) -> bool {
    Object::from_address(call.socket)
        .and_then(|socket| Probed::pointer(socket, Field::SocketSk))
        .is_some_and(|other| other.address() == sk.address())
}

/// In any task.
#[inline(always)]
fn tcp_ends<A: Access>(sk: Object, result: u32, error: u32) -> Option<()> {
    let key = sk.address();
    let begun = map::lookup(&map::CONNECTING, key)?;
    let actor = Kept {
        header: &begun.header,
        subject: &begun.subject,
    };
    fixed::<ConnectRecord>(actor, |record| {
        record.started_boot_ns = begun.header.time_boot_ns;
        record.socket_key = key;
        record.result = result;
        record.error = error;
        record.family = begun.family;
        record.remote_port = begun.remote_port;
        record.remote_address = begun.remote_address;
        record.net_ns = begun.net_ns;
        record.protocol = IPPROTO_TCP;
        record.socket_type = A::number(sk, Field::SockType).unwrap_or(0);
        record.local_port = A::number(sk, Field::SockNum).unwrap_or(0);
        local_address(sk, begun.family, &mut record.local_address);
    });
    map::remove(&map::CONNECTING, key);
    Some(())
}

#[inline(always)]
fn net_ns<A: Access>(sk: Object) -> u32 {
    A::pointer(sk, Field::SockNet)
        .and_then(|net| A::number(net, Field::NetInum))
        .unwrap_or(0)
}

#[inline(always)]
fn remote_address(sk: Object, family: u16, address: &mut [u8; 16]) {
    if family == AF_INET6 {
        read::bytes(sk, Field::SockV6Daddr, address);
    } else if let Some(four) = Probed::number::<u32>(sk, Field::SockDaddr) {
        set_four(address, four);
    }
}

#[inline(always)]
fn local_address(sk: Object, family: u16, address: &mut [u8; 16]) {
    if family == AF_INET6 {
        read::bytes(sk, Field::SockV6RcvSaddr, address);
    } else if let Some(four) = Probed::number::<u32>(sk, Field::SockRcvSaddr) {
        set_four(address, four);
    }
}

#[inline(always)]
fn set_four(address: &mut [u8; 16], four: u32) {
    let [a, b, c, d] = four.to_ne_bytes();
    address[0] = a;
    address[1] = b;
    address[2] = c;
    address[3] = d;
}

/// `security_socket_connect(sock, address, addrlen)`.
#[fentry(function = "security_socket_connect")]
pub(crate) fn conn_in_fe(context: FEntryContext) -> Option<()> {
    let length: u64 = context.arg(2);
    called::<Typed>(Object::new(context.arg(0))?, context.arg(1), length)
}

#[kprobe(function = "security_socket_connect")]
pub(crate) fn conn_in_kp(context: ProbeContext) -> Option<()> {
    let length: u64 = context.arg(2)?;
    called::<Probed>(Object::new(context.arg(0)?)?, context.arg(1)?, length)
}

#[inline(always)]
fn called<A: Access>(socket: Object, address: u64, length: u64) -> Option<()> {
    let sk = A::pointer(socket, Field::SocketSk)?;
    let family = A::number::<u16>(sk, Field::SockFamily)?;
    if family != AF_INET && family != AF_INET6 && family != AF_UNIX {
        return None;
    }
    let mut place = MaybeUninit::uninit();
    let call = read::zeroed::<ConnectCall>(&mut place);
    call.started_boot_ns = emit::now();
    call.socket = socket.address();
    if A::number::<u32>(socket, Field::SocketState).is_some_and(|state| state != SS_UNCONNECTED) {
        call.state = state::AGAIN;
    }
    call.address_bytes = read::address(&mut call.address, address, length);
    if !map::insert(&map::CONNECT_CALLS, task::thread_key(), call) {
        lost::<ConnectRecord>(KernelCounter::LostMapFull);
    }
    Some(())
}

/// `inet_stream_connect(sock, address, addrlen, flags)`.
#[fexit(function = "inet_stream_connect")]
pub(crate) fn conn_tcp_fx(context: FExitContext) -> Option<()> {
    let result: u64 = context.arg(4);
    stream_returned(result as i32)
}

#[kretprobe(function = "inet_stream_connect")]
pub(crate) fn conn_tcp_rp(context: RetProbeContext) -> Option<()> {
    stream_returned(context.ret())
}

/// `inet_dgram_connect(sock, address, addrlen, flags)`.
#[fexit(function = "inet_dgram_connect")]
pub(crate) fn conn_dgr_fx(context: FExitContext) -> Option<()> {
    let result: u64 = context.arg(4);
    datagram_returned(result as i32)
}

#[kretprobe(function = "inet_dgram_connect")]
pub(crate) fn conn_dgr_rp(context: RetProbeContext) -> Option<()> {
    datagram_returned(context.ret())
}

/// `unix_stream_connect(sock, address, addrlen, flags)`.
#[fexit(function = "unix_stream_connect")]
pub(crate) fn conn_us_fx(context: FExitContext) -> Option<()> {
    let result: u64 = context.arg(4);
    unix_returned(map::SCRATCH_UNIX_STREAM.get_ptr_mut(0), result as i32)
}

#[kretprobe(function = "unix_stream_connect")]
pub(crate) fn conn_us_rp(context: RetProbeContext) -> Option<()> {
    unix_returned(map::SCRATCH_UNIX_STREAM.get_ptr_mut(0), context.ret())
}

/// `unix_dgram_connect(sock, address, addrlen, flags)`.
#[fexit(function = "unix_dgram_connect")]
pub(crate) fn conn_ud_fx(context: FExitContext) -> Option<()> {
    let result: u64 = context.arg(4);
    unix_returned(map::SCRATCH_UNIX_DATAGRAM.get_ptr_mut(0), result as i32)
}

#[kretprobe(function = "unix_dgram_connect")]
pub(crate) fn conn_ud_rp(context: RetProbeContext) -> Option<()> {
    unix_returned(map::SCRATCH_UNIX_DATAGRAM.get_ptr_mut(0), context.ret())
}

#[inline(always)]
fn stream_returned(result: i32) -> Option<()> {
    let thread = task::thread_key();
    let call = map::lookup(&map::CONNECT_CALLS, thread)?;
    if call.state == state::ENDED {
        tcp_ended(call.socket, result);
    } else if call.state == state::FRESH
        && let Some(error) = final_error(i64::from(result))
    {
        report_call(call, connect_result::FAILED, error);
    }
    map::remove(&map::CONNECT_CALLS, thread);
    Some(())
}

#[inline(always)]
fn datagram_returned(result: i32) -> Option<()> {
    let thread = task::thread_key();
    let call = map::lookup(&map::CONNECT_CALLS, thread)?;
    if let Some((result, error)) = datagram_outcome(call.socket, result) {
        report_call(call, result, error);
    }
    map::remove(&map::CONNECT_CALLS, thread);
    Some(())
}

/// Result and error of a connect of a datagram socket; none if it was disconnected.
#[inline(always)]
pub(super) fn datagram_outcome(socket: u64, result: i32) -> Option<(u32, u32)> {
    if result < 0 {
        return Some((connect_result::FAILED, final_error(i64::from(result))?));
    }
    let sk = Probed::pointer(Object::from_address(socket)?, Field::SocketSk)?;
    (Probed::number::<u8>(sk, Field::SockState)? == TCP_ESTABLISHED)
        .then_some((connect_result::ESTABLISHED, 0))
}

/// The positive errno of an attempt that failed; none if it did not, or not yet.
#[inline(always)]
pub(super) fn final_error(result: i64) -> Option<u32> {
    let error = -result;
    match error {
        EINTR | EISCONN | EALREADY | EINPROGRESS => None,
        // The kernel restarts the call by itself (ERESTARTSYS and its kin).
        512..=530 => None,
        1..=4095 => Some(error as u32),
        _ => None,
    }
}

/// Whether an error can be the outcome of an attempt of which an earlier call was told "in progress".
#[inline(always)]
pub(super) fn may_be_old(error: u32) -> bool {
    matches!(
        i64::from(error),
        ECONNREFUSED | ETIMEDOUT | ECONNRESET | ECONNABORTED
    )
}

/// Reports a call on an internet socket with the address that the caller gave.
#[inline(always)]
fn report_call(call: &ConnectCall, result: u32, error: u32) {
    fixed::<ConnectRecord>(Current, |record| {
        record.started_boot_ns = call.started_boot_ns;
        record.result = result;
        record.error = error;
        describe_socket(record, call.socket);
        let given = given_family(call);
        record.remote_port = u16::from_be_bytes([call.address[2], call.address[3]]);
        if given == AF_INET {
            record.remote_address[..4].copy_from_slice(&call.address[4..8]);
        } else if given == AF_INET6 {
            record.remote_address.copy_from_slice(&call.address[8..24]);
        }
    });
}

#[inline(always)]
fn given_family(call: &ConnectCall) -> u16 {
    u16::from_ne_bytes([call.address[0], call.address[1]])
}

/// What the socket itself says, but for the other end.
#[inline(always)]
pub(super) fn describe_socket(record: &mut ConnectRecord, socket: u64) {
    let Some(sk) =
        Object::from_address(socket).and_then(|socket| Probed::pointer(socket, Field::SocketSk))
    else {
        return;
    };
    record.socket_key = sk.address();
    record.family = Probed::number(sk, Field::SockFamily).unwrap_or(0);
    record.socket_type = Probed::number(sk, Field::SockType).unwrap_or(0);
    record.net_ns = net_ns::<Probed>(sk);
    if record.family == AF_UNIX {
        return;
    }
    record.protocol = Probed::number(sk, Field::SockProtocol).unwrap_or(0);
    record.local_port = Probed::number(sk, Field::SockNum).unwrap_or(0);
    local_address(sk, record.family, &mut record.local_address);
}

#[inline(always)]
fn unix_returned(scratch: Option<*mut Scratch<PATH_BYTES>>, result: i32) -> Option<()> {
    let thread = task::thread_key();
    let call = map::lookup(&map::CONNECT_CALLS, thread)?;
    let error = final_error(i64::from(result));
    // AF_UNSPEC dissolves an association.
    if given_family(call) == AF_UNIX && (result == 0 || error.is_some()) {
        tailed::<ConnectRecord, PATH_BYTES>(scratch, Current, |draft| {
            let record = draft.record();
            record.started_boot_ns = call.started_boot_ns;
            unix_outcome(record, error);
            describe_socket(record, call.socket);
            let address = (&raw const call.address).expose_provenance() as u64;
            let path = push_unix_path(draft, address, u64::from(call.address_bytes));
            draft.record().path = path;
        });
    }
    map::remove(&map::CONNECT_CALLS, thread);
    Some(())
}

#[inline(always)]
fn unix_outcome(record: &mut ConnectRecord, error: Option<u32>) {
    match error {
        Some(error) => {
            record.result = connect_result::FAILED;
            record.error = error;
        }
        None => record.result = connect_result::ESTABLISHED,
    }
}

/// Appends the name in a `sockaddr_un`: a path without its NUL, or an abstract name with the NUL that it begins with.
#[inline(always)]
fn push_unix_path(
    draft: &mut Draft<ConnectRecord, PATH_BYTES>,
    address: u64,
    address_bytes: u64,
) -> Text {
    let name = address + size_of::<u16>() as u64;
    let first = Object::from_address(name).and_then(|name| Probed::load::<u8>(name, 0));
    if address_bytes <= size_of::<u16>() as u64 {
        return Text::default();
    }
    if first != Some(0) {
        return draft.push_string(Some(name));
    }
    let length = address_bytes - size_of::<u16>() as u64;
    if !draft.push(name, length) {
        return Text::default();
    }
    Text {
        len: length as u32,
        true_len: length as u32,
    }
}

/// The return of connect(2), where no entry probe saw the call: what can be known from the socket.
#[inline(always)]
pub(super) fn syscall_returned(
    scratch: Option<*mut Scratch<PATH_BYTES>>,
    socket: Object,
    result: i32,
) -> Option<()> {
    let thread = task::thread_key();
    let state = map::lookup(&map::CONNECT_CALLS, thread).map(|call| call.state);
    map::remove(&map::CONNECT_CALLS, thread);
    let sk = Probed::pointer(socket, Field::SocketSk)?;
    let family = Probed::number::<u16>(sk, Field::SockFamily)?;
    if family == AF_UNIX {
        return unix_syscall(scratch, socket, sk, result);
    }
    if family != AF_INET && family != AF_INET6 {
        return None;
    }
    let (result, error) = if Probed::number::<u16>(sk, Field::SockProtocol)? == IPPROTO_TCP {
        if state == Some(state::ENDED) {
            return tcp_ended(socket.address(), result);
        }
        if state == Some(state::SENT) {
            return None;
        }
        let error = final_error(i64::from(result))?;
        // Without an entry probe a late answer looks the same: these never come before a SYN.
        if may_be_old(error) {
            return None;
        }
        (connect_result::FAILED, error)
    } else {
        datagram_outcome(socket.address(), result)?
    };
    fixed::<ConnectRecord>(Current, |record| {
        record.started_boot_ns = record.header.time_boot_ns;
        record.result = result;
        record.error = error;
        describe_socket(record, socket.address());
        if result == connect_result::FAILED {
            record.remote_unknown = 1;
            return;
        }
        record.remote_port = Probed::number::<u16>(sk, Field::SockDport).map_or(0, u16::from_be);
        remote_address(sk, family, &mut record.remote_address);
    });
    Some(())
}

#[inline(always)]
fn unix_syscall(
    scratch: Option<*mut Scratch<PATH_BYTES>>,
    socket: Object,
    sk: Object,
    result: i32,
) -> Option<()> {
    let error = final_error(i64::from(result));
    let peer = Probed::pointer(sk, Field::UnixPeer);
    // Without a peer a success was the end of an association.
    if error.is_none() && (result != 0 || peer.is_none()) {
        return None;
    }
    tailed::<ConnectRecord, PATH_BYTES>(scratch, Current, |draft| {
        let record = draft.record();
        record.started_boot_ns = record.header.time_boot_ns;
        unix_outcome(record, error);
        describe_socket(record, socket.address());
        if error.is_some() {
            record.remote_unknown = 1;
            return;
        }
        let Some(address) = peer.and_then(|peer| Probed::pointer(peer, Field::UnixAddr)) else {
            return;
        };
        let (Some(length), Some(name)) = (
            Probed::number::<u32>(address, Field::UnixAddressLen),
            layout::offset(Field::UnixAddressName),
        ) else {
            return;
        };
        let path = push_unix_path(draft, address.address() + name as u64, u64::from(length));
        draft.record().path = path;
    });
    Some(())
}
