//! What an answer of an OTLP receiver means, as its specification says: which errors are tried again and which packets are
//! given up. One thing is decided otherwise: an answer that is about us and not about the packet (who we are, where we
//! knock) ends the session and is tried again, where the specification would have us drop what we hold. Pure.

use std::time::Duration;

use bytes::Buf as _;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message;
use tonic::Code;

use super::http::Answer;
use crate::sink::delivery::{Fault, printable};

/// What the receiver says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has it all; it may have something to say nevertheless.
    Accepted {
        /// A warning.
        warning: Option<String>,
    },
    /// It has a part, and the rest must not be sent again.
    Partly {
        /// Log records that it does not want.
        rejected: i64,
        /// Why.
        why: String,
    },
    /// It has nothing, and it must not be sent again.
    Refused {
        /// Why.
        why: String,
    },
    /// It has nothing yet.
    Later {
        /// Why.
        why: String,
        /// How long it wants to be left alone.
        after: Option<Duration>,
    },
}

/// Messages of google.rpc that errors are told with.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) details: Vec<Detail>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Detail {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub(super) retry_delay: Option<Delay>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Delay {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

impl RpcStatus {
    /// How long to wait, if it says so.
    fn retry_delay(&self) -> Option<Duration> {
        let info = self
            .details
            .iter()
            .find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(info.value.as_slice()).ok()?.retry_delay?;
        let seconds = u64::try_from(delay.seconds).ok()?;
        Some(Duration::new(seconds, u32::try_from(delay.nanos).ok()?))
    }
}

fn success(message: &[u8]) -> Result<Verdict, Fault> {
    let response = ExportLogsServiceResponse::decode(message)
        .map_err(|error| Fault::protocol(format!("an answer that is none: {error}")))?;
    let partial = response.partial_success.unwrap_or_default();
    let why = printable(&partial.error_message);
    Ok(match partial.rejected_log_records {
        // Less than none makes no sense; that it is populated forbids to send again.
        0 => Verdict::Accepted {
            warning: (!why.is_empty()).then_some(why),
        },
        rejected => Verdict::Partly { rejected, why },
    })
}

fn is_of_type(headers: &HeaderMap, wanted: &str) -> bool {
    let typed = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    typed.is_some_and(|typed| typed.starts_with(wanted))
}

/// An answer over plain HTTP.
pub(super) fn of_http(answer: &Answer) -> Result<Verdict, Fault> {
    let status = answer.status;
    if status.is_success() {
        // A page of text with status 200 is what proxies and log-in forms say, not that anything is stored.
        if !answer.body.is_empty() && !is_of_type(&answer.headers, "application/x-protobuf") {
            return Err(Fault::protocol(format!(
                "status {status} with an answer that is no protobuf"
            )));
        }
        return success(&answer.body);
    }
    let why = format!("status {status}{}", told(answer));
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Ok(Verdict::Later {
            why,
            after: retry_after(&answer.headers),
        }),
        // The request did not arrive.
        StatusCode::REQUEST_TIMEOUT => Ok(Verdict::Later { why, after: None }),
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::NOT_FOUND
        | StatusCode::METHOD_NOT_ALLOWED
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED
        | StatusCode::MISDIRECTED_REQUEST
        | StatusCode::UPGRADE_REQUIRED => Err(Fault::new("refused", why)),
        _ if status.is_client_error() || status.is_server_error() => Ok(Verdict::Refused { why }),
        // Redirections are not followed: who may receive stands in the configuration.
        _ => Err(Fault::new("refused", why)),
    }
}

/// What an error says for people.
fn told(answer: &Answer) -> String {
    let text = if is_of_type(&answer.headers, "application/x-protobuf") {
        RpcStatus::decode(answer.body.as_ref())
            .map(|status| status.message)
            .unwrap_or_default()
    } else if is_of_type(&answer.headers, "text/plain") {
        String::from_utf8_lossy(&answer.body).into_owned()
    } else {
        String::new()
    };
    if text.is_empty() {
        return text;
    }
    format!(": {}", printable(&text))
}

/// Seconds, or an instant of the wall clock; nonsense counts as nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = then.duration_since(jiff::Timestamp::now());
    // One that has passed is no wait.
    Some(Duration::try_from(wait).unwrap_or_default())
}

/// An answer over gRPC.
pub(super) fn of_grpc(answer: &Answer) -> Result<Verdict, Fault> {
    if answer.status != StatusCode::OK || !is_of_type(&answer.headers, "application/grpc") {
        return not_grpc(answer);
    }
    let text = |name: &str| {
        let value = answer
            .trailers
            .get(name)
            .or_else(|| answer.headers.get(name));
        value.and_then(|value| value.to_str().ok())
    };
    let code = text("grpc-status").and_then(|code| code.parse::<i32>().ok());
    let Some(code) = code else {
        return Err(Fault::protocol("an answer without grpc-status"));
    };
    let code = Code::from_i32(code);
    if code == Code::Ok {
        return success(message(&answer.body)?);
    }
    let message = percent_decoded(text("grpc-message").unwrap_or_default());
    let why = format!("{code:?}: {}", printable(&message));
    let status = text("grpc-status-details-bin").and_then(details);
    let after = status.and_then(|status| status.retry_delay());
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => Ok(Verdict::Later { why, after }),
        // Only with a time is it the receiver's lack; without, the packet is too large for it.
        Code::ResourceExhausted if after.is_some() => Ok(Verdict::Later { why, after }),
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::NotFound => {
            Err(Fault::new("refused", why))
        }
        Code::Ok
        | Code::ResourceExhausted
        | Code::Unknown
        | Code::InvalidArgument
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Internal => Ok(Verdict::Refused { why }),
    }
}

/// What stands between us and the receiver has answered.
fn not_grpc(answer: &Answer) -> Result<Verdict, Fault> {
    let why = format!("status {}, not gRPC", answer.status);
    match answer.status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Ok(Verdict::Later {
            why,
            after: retry_after(&answer.headers),
        }),
        StatusCode::OK => Err(Fault::protocol(why)),
        _ => Err(Fault::new("refused", why)),
    }
}

/// The one message of a unary answer.
fn message(mut body: &[u8]) -> Result<&[u8], Fault> {
    let wrong = || Fault::protocol("an answer that is not one message of gRPC");
    if body.len() < 5 {
        return Err(wrong());
    }
    let compressed = body.get_u8() != 0;
    let length = usize::try_from(body.get_u32()).unwrap_or(usize::MAX);
    if compressed || body.len() != length {
        return Err(wrong());
    }
    Ok(body)
}

fn details(text: &str) -> Option<RpcStatus> {
    use base64::Engine as _;
    use base64::alphabet::STANDARD;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, lenient).decode(text).ok()?;
    RpcStatus::decode(bytes.as_slice()).ok()
}

/// `%20` is a space; what is no such sequence stays.
fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match byte {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
