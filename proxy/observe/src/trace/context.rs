//! # Trace contexts
//!
//! Job: the formats in which a request says which trace it belongs to: W3C `traceparent`, `grpc-trace-bin`,
//! B3 in several headers; in this order.
//! May touch: these headers. Must not touch: spans. Callers: `trace`.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderValue};

/// What a request says of its trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The trace. 64-bit ids of B3 fill the lower half.
    pub trace: [u8; 16],
    /// The span that the request comes from.
    pub parent: [u8; 8],
    /// Whether spans are wanted.
    pub sampled: bool,
    /// How it was said.
    pub format: Format,
}

/// A format, with the flags that it carries on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `traceparent`, version 00.
    W3c {
        /// Its flags; the lowest bit is sampled.
        flags: u8,
    },
    /// `grpc-trace-bin`, version 0.
    GrpcBin {
        /// Its flags; the lowest bit is sampled.
        flags: u8,
    },
    /// `x-b3-traceid`, `x-b3-spanid`, `x-b3-sampled`.
    B3,
}

const TRACEPARENT: &str = "traceparent";
const GRPC_TRACE_BIN: &str = "grpc-trace-bin";
const B3_TRACE: &str = "x-b3-traceid";
const B3_SPAN: &str = "x-b3-spanid";
const B3_PARENT: &str = "x-b3-parentspanid";
const B3_SAMPLED: &str = "x-b3-sampled";
const B3_FLAGS: &str = "x-b3-flags";
const SAMPLED: u8 = 1;

/// Binary headers come with padding or without (gRPC over HTTP/2).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_encode_padding(false),
);

impl Context {
    /// The first context that can be read.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let w3c = || text(TRACEPARENT).and_then(w3c);
        let grpc = || text(GRPC_TRACE_BIN).and_then(|v| grpc_bin(&BASE64.decode(v).ok()?));
        let b3 = || {
            let sampled = text(B3_SAMPLED).is_some_and(|v| matches!(v, "1" | "true" | "d"))
                || text(B3_FLAGS) == Some("1");
            Some(Self {
                trace: b3_trace(text(B3_TRACE)?)?,
                parent: hex(text(B3_SPAN)?).filter(is_set)?,
                sampled,
                format: Format::B3,
            })
        };
        w3c().or_else(grpc).or_else(b3)
    }

    /// Says to those behind that they come from this span.
    pub(crate) fn descend(&self, span: [u8; 8], headers: &mut HeaderMap) {
        let mut set = |name: &'static str, value: String| {
            // Digits, dashes and base64 always are a header's value.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        match self.format {
            Format::W3c { flags } => set(
                TRACEPARENT,
                format!("00-{}-{}-{flags:02x}", printed(&self.trace), printed(&span)),
            ),
            Format::GrpcBin { flags } => {
                let fields: [&[u8]; 6] = [&[0, 0], &self.trace, &[1], &span, &[2], &[flags]];
                set(GRPC_TRACE_BIN, BASE64.encode(fields.concat()));
            }
            Format::B3 => {
                set(B3_SPAN, printed(&span));
                // Whoever sends it expects it to be true.
                if headers.contains_key(B3_PARENT)
                    && let Ok(value) = HeaderValue::try_from(printed(&self.parent))
                {
                    headers.insert(B3_PARENT, value);
                }
            }
        }
    }
}

/// `00-<trace>-<span>-<flags>`.
fn w3c(value: &str) -> Option<Context> {
    let mut parts = value.trim().split('-');
    let (version, trace, parent, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if version != "00" || parts.next().is_some() {
        return None;
    }
    let [flags] = hex(flags)?;
    Some(Context {
        trace: hex(trace).filter(is_set)?,
        parent: hex(parent).filter(is_set)?,
        sampled: flags & SAMPLED != 0,
        format: Format::W3c { flags },
    })
}

/// Version 0, then fields, each a number and bytes of a known length.
fn grpc_bin(bytes: &[u8]) -> Option<Context> {
    let (mut trace, mut parent, mut flags) = (None, None, 0);
    let (0, mut rest) = bytes.split_first().map(|(version, rest)| (*version, rest))? else {
        return None;
    };
    while let Some((field, after)) = rest.split_first() {
        rest = match field {
            0 => {
                let (id, after) = after.split_first_chunk()?;
                trace = Some(*id);
                after
            }
            1 => {
                let (id, after) = after.split_first_chunk()?;
                parent = Some(*id);
                after
            }
            2 => {
                let ([value], after) = after.split_first_chunk()?;
                flags = *value;
                after
            }
            // Of unknown length: what follows cannot be read.
            _ => break,
        };
    }
    Some(Context {
        trace: trace.filter(is_set)?,
        parent: parent.filter(is_set)?,
        sampled: flags & SAMPLED != 0,
        format: Format::GrpcBin { flags },
    })
}

/// 64 or 128 bits.
fn b3_trace(text: &str) -> Option<[u8; 16]> {
    let short = || {
        let mut trace = [0; 16];
        trace[8..].copy_from_slice(&hex::<8>(text)?);
        Some(trace)
    };
    hex(text).or_else(short).filter(is_set)
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::try_from(digit(2 * at)? * 16 + digit(2 * at + 1)?).ok()?;
    }
    Some(bytes)
}

fn is_set<const N: usize>(id: &[u8; N]) -> bool {
    *id != [0; N]
}

fn printed(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: [u8; 8] = [0xaa; 8];

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (::http::HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    // proves: TRACE-1
    #[test]
    fn each_format_is_read_and_carried_on_as_it_came() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-03");
        let mut w3c = headers(&[("traceparent", &parent), ("tracestate", "a=b")]);
        let context = Context::of(&w3c).unwrap();
        assert!(context.sampled && context.trace[0] == 0x4b && context.parent[7] == 0xb7);
        context.descend(SPAN, &mut w3c);
        assert_eq!(w3c["traceparent"], format!("00-{TRACE}-aaaaaaaaaaaaaaaa-03"));
        assert_eq!(w3c["tracestate"], "a=b");

        let mut b3 = headers(&[
            ("x-b3-traceid", "a3ce929d0e0e4736"),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-parentspanid", "1111111111111111"),
            ("x-b3-sampled", "1"),
        ]);
        let context = Context::of(&b3).unwrap();
        assert!(context.sampled && context.trace[..8] == [0; 8] && context.trace[8] == 0xa3);
        context.descend(SPAN, &mut b3);
        assert_eq!(b3["x-b3-spanid"], "aaaaaaaaaaaaaaaa");
        assert_eq!(b3["x-b3-parentspanid"], "00f067aa0ba902b7");
        assert_eq!(b3["x-b3-traceid"], "a3ce929d0e0e4736");

        let bytes = [&[0, 0][..], &[7; 16], &[1], &[9; 8], &[2, 1]].concat();
        let mut grpc = headers(&[("grpc-trace-bin", &BASE64.encode(&bytes))]);
        let context = Context::of(&grpc).unwrap();
        assert_eq!((context.trace, context.parent, context.sampled), ([7; 16], [9; 8], true));
        context.descend(SPAN, &mut grpc);
        let carried = BASE64.decode(grpc["grpc-trace-bin"].as_bytes()).unwrap();
        assert_eq!(carried, [&[0, 0][..], &[7; 16], &[1], &SPAN, &[2, 1]].concat());
    }

    // proves: TRACE-1
    #[test]
    fn the_first_that_can_be_read_counts() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let b3 = [("x-b3-traceid", TRACE), ("x-b3-spanid", "1111111111111111")];
        let both = headers(&[("traceparent", &parent), b3[0], b3[1]]);
        let context = Context::of(&both).unwrap();
        assert_eq!((context.format, context.sampled), (Format::W3c { flags: 0 }, false));
        for bad in [
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-zzf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "",
            "\u{7f}",
        ] {
            let bad = HeaderValue::from_str(bad).unwrap_or(HeaderValue::from_static("-"));
            let mut two = headers(&b3);
            two.insert("traceparent", bad.clone());
            let context = Context::of(&two).unwrap();
            assert_eq!((context.format, context.sampled), (Format::B3, false), "{bad:?}");
            two.remove("x-b3-spanid");
            assert_eq!(Context::of(&two), None);
        }
        for bytes in [&[][..], &[1], &[0, 0, 1], &[0, 1, 9], &[0, 5, 5]] {
            assert_eq!(grpc_bin(bytes), None);
        }
    }
}
