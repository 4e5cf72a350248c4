//! # Netlink messages
//!
//! Job: the bytes of netlink messages and the meaning of the kernel's answers.
//! May touch: bytes. Must not touch: sockets (see `socket`), what a message means.
//! Callers: `nftables`; tests that build networks of their own.

mod socket;

pub use socket::Socket;

/// A request.
pub const REQUEST: u16 = 0x1;
/// The kernel is to confirm it.
pub const ACK: u16 = 0x4;
/// What does not exist is made.
pub const CREATE: u16 = 0x400;
/// It goes to the end of its list.
pub const APPEND: u16 = 0x800;

/// Attributes in their order: a length, a kind, a value padded to four bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs(Vec<u8>);

/// A message without its number, which it gets when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    kind: u16,
    flags: u16,
    header: Vec<u8>,
    attrs: Attrs,
}

/// What the kernel said to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message's place in what was sent, from 0.
    pub index: usize,
    /// The error's number; 0 confirms.
    pub errno: i32,
}

impl Attrs {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been added so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds raw bytes. What exceeds an attribute's room (64 KiB) is cut.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let value = &value[..value.len().min(MAX_VALUE)];
        let length = u16::try_from(HEAD + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        pad(&mut self.0);
        self
    }

    /// Adds a number in the network's byte order.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a text with the zero that ends it.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Adds attributes within an attribute.
    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

impl Message {
    /// A message of a kind, with the header of its family.
    pub fn new(kind: u16, flags: u16, header: &[u8], attrs: Attrs) -> Self {
        Self { kind, flags: flags | REQUEST, header: header.to_vec(), attrs }
    }

    /// Asks the kernel to confirm it.
    pub fn confirmed(mut self) -> Self {
        self.flags |= ACK;
        self
    }
}

/// Messages as one write, numbered from 0 in their order.
pub fn encode(messages: &[Message]) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, message) in (0_u32..).zip(messages) {
        let length = MESSAGE_HEAD + message.header.len() + message.attrs.0.len();
        out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
        out.extend(message.kind.to_ne_bytes());
        out.extend(message.flags.to_ne_bytes());
        out.extend(number.to_ne_bytes());
        out.extend(0_u32.to_ne_bytes());
        out.extend(&message.header);
        out.extend(&message.attrs.0);
        pad(&mut out);
    }
    out
}

/// The confirmations and errors in one read. Other messages are passed over; a broken one ends reading.
pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut found = Vec::new();
    while let Some((answer, rest)) = first_answer(bytes) {
        found.extend(answer);
        bytes = rest;
    }
    found
}

fn first_answer(bytes: &[u8]) -> Option<(Option<Answer>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let message = bytes.get(..length).filter(|m| m.len() >= MESSAGE_HEAD)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let kind = u16::from_ne_bytes(*message[4..].first_chunk()?);
    if kind != ERROR {
        return Some((None, rest));
    }
    // An error's number, then the message that it is about, whose own number stands 8 bytes in.
    let errno = i32::from_ne_bytes(*message.get(MESSAGE_HEAD..)?.first_chunk()?);
    let number = u32::from_ne_bytes(*message.get(MESSAGE_HEAD + 4 + 8..)?.first_chunk()?);
    let answer = Answer { index: usize::try_from(number).ok()?, errno: errno.checked_neg()? };
    Some((Some(answer), rest))
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Length and kind of an attribute.
const HEAD: usize = 4;
const MAX_VALUE: usize = u16::MAX as usize - HEAD;
/// Length, kind, flags, number and port of a message.
const MESSAGE_HEAD: usize = 16;
const NESTED: u16 = 0x8000;
const ERROR: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let attrs = Attrs::new().text(1, "lo").nest(4, &Attrs::new().number(2, 7));
        let mut expected = Vec::new();
        expected.extend(7_u16.to_ne_bytes());
        expected.extend(1_u16.to_ne_bytes());
        expected.extend(b"lo\0\0");
        expected.extend(12_u16.to_ne_bytes());
        expected.extend(0x8004_u16.to_ne_bytes());
        expected.extend(8_u16.to_ne_bytes());
        expected.extend(2_u16.to_ne_bytes());
        expected.extend([0, 0, 0, 7]);
        assert_eq!(attrs.0, expected);
    }

    #[test]
    fn messages_are_numbered() {
        let message = |kind| Message::new(kind, CREATE, &[9; 4], Attrs::new());
        let bytes = encode(&[message(5), message(6).confirmed()]);
        assert_eq!(bytes.len(), 40);
        assert_eq!(bytes[..4], 20_u32.to_ne_bytes());
        assert_eq!(bytes[6..8], (REQUEST | CREATE).to_ne_bytes());
        assert_eq!(bytes[26..28], (REQUEST | CREATE | ACK).to_ne_bytes());
        assert_eq!((&bytes[8..12], &bytes[28..32]), (&[0; 4][..], &1_u32.to_ne_bytes()[..]));
    }

    #[test]
    fn answers_are_read_and_broken_ones_end_reading() {
        let error = |errno: i32, number: u32| {
            let mut inner = errno.wrapping_neg().to_ne_bytes().to_vec();
            inner.extend([0; 8]);
            inner.extend(number.to_ne_bytes());
            inner.extend([0; 4]);
            let mut bytes = encode(&[Message::new(ERROR, 0, &inner, Attrs::new())]);
            bytes.truncate(16 + 4 + 16);
            bytes
        };
        let mut bytes = encode(&[Message::new(77, 0, &[], Attrs::new())]);
        bytes.extend(error(0, 4));
        bytes.extend(error(95, 2));
        let whole = [Answer { index: 4, errno: 0 }, Answer { index: 2, errno: 95 }];
        assert_eq!(answers(&bytes), whole);
        for cut in 0..bytes.len() {
            assert!(answers(&bytes[..cut]).len() < 2, "{cut}");
        }
        assert_eq!(answers(&[0xff; 40]), []);
    }
}
