//! As much of HTTP/2 as it takes to make gRPC calls whose messages are nonsense, many at once.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// What a client says first: the magic, and settings of which none is special.
pub(super) const PREFACE: &[u8; 33] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// None of them would change anything if garbage happened to be a good message.
const METHODS: [&str; 5] = [
    "/rustspeed.v1.Coordinator/Submit",
    "/rustspeed.v1.Coordinator/GetJob",
    "/rustspeed.v1.WorkerLink/Control",
    "/rustspeed.v1.WorkerLink/Bulk",
    "/rustspeed.v1.Nobody/Nothing",
];

/// Makes `count` calls on one connection; how many of them were ended by the other side.
pub(super) fn call(mut stream: TcpStream, count: usize, chance: &mut ChaCha8Rng) -> usize {
    let mut bytes = PREFACE.to_vec();
    for number in 0..count {
        let id = 2 * u32::try_from(number).expect("a few calls") + 1;
        let method = METHODS[chance.random_range(0..METHODS.len())];
        frame(&mut bytes, HEADERS, END_HEADERS, id, &headers(method));
        frame(&mut bytes, DATA, END_STREAM, id, &message(chance));
    }
    stream.write_all(&bytes).expect("the coordinator reads");
    // A call can be ended twice: by its answer, and by a reset of what is left of it.
    let mut ended = BTreeSet::new();
    while ended.len() < count
        && let Some(call) = next(&mut stream)
    {
        ended.extend(call);
    }
    ended.len()
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    to.extend_from_slice(&length[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&stream.to_be_bytes());
    to.extend_from_slice(payload);
}

/// HPACK without its table and without Huffman: each field is a literal.
fn headers(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "nonsense"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("below 127"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A gRPC message: a flag, a length, and what ought to be protobuf.
fn message(chance: &mut ChaCha8Rng) -> Vec<u8> {
    let mut body = vec![0; chance.random_range(1..200)];
    chance.fill_bytes(&mut body);
    // No field has the number 0, so that no chance makes these bytes a message.
    body[0] = 0;
    let length = match chance.random_range(0..3) {
        // Up to 4 GiB are announced.
        0 => chance.random_range((17 << 20)..=u32::MAX),
        _ => u32::try_from(body.len()).expect("a short body"),
    };
    let mut message = vec![0];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&body);
    message
}

/// Reads one frame: the call that it ends, if any. None: the connection is over.
fn next(stream: &mut TcpStream) -> Option<Option<u32>> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).ok()?;
    let call = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    match head[3] {
        HEADERS | DATA if head[4] & END_STREAM != 0 => Some(Some(call)),
        RST_STREAM => Some(Some(call)),
        GOAWAY => None,
        _ => Some(None),
    }
}
