//! TensorBoard's records, by hand: the few fields of `tensorflow.Event` that scalars need, and the
//! TFRecord frame around each. Field numbers are those of TensorFlow's `event.proto` and
//! `summary.proto`.

/// What one record tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum What<'a> {
    /// The first record of every file.
    FileVersion,
    /// Everything with this step or a later one in older files is void.
    RestartAt,
    Scalar {
        tag: &'a str,
        value: f32,
    },
}

/// Appends one framed record to `to`: length and payload, each with its masked CRC-32C.
pub(super) fn push(to: &mut Vec<u8>, wall_seconds: f64, step: u64, what: What<'_>) {
    let payload = event(wall_seconds, step, what);
    let length = (payload.len() as u64).to_le_bytes();
    to.extend_from_slice(&length);
    to.extend_from_slice(&masked_crc(&length).to_le_bytes());
    to.extend_from_slice(&payload);
    to.extend_from_slice(&masked_crc(&payload).to_le_bytes());
}

/// `Event { wall_time = 1, step = 2, file_version = 3 | summary = 5 | session_log = 7 }`.
fn event(wall_seconds: f64, step: u64, what: What<'_>) -> Vec<u8> {
    let mut event = Vec::with_capacity(64);
    key(&mut event, 1, Wire::Fixed64);
    event.extend_from_slice(&wall_seconds.to_le_bytes());
    // Protobuf leaves out zeros.
    if step > 0 {
        key(&mut event, 2, Wire::Varint);
        varint(&mut event, step);
    }
    match what {
        What::FileVersion => bytes(&mut event, 3, b"brain.Event:2"),
        What::RestartAt => {
            // SessionLog { status = 1: START = 1 }
            bytes(&mut event, 7, &[1 << 3, 1]);
        }
        What::Scalar { tag, value } => {
            // Summary { value = 1: Value { tag = 1, simple_value = 2 } }
            let mut inner = Vec::with_capacity(tag.len() + 8);
            bytes(&mut inner, 1, tag.as_bytes());
            key(&mut inner, 2, Wire::Fixed32);
            inner.extend_from_slice(&value.to_le_bytes());
            let mut summary = Vec::with_capacity(inner.len() + 4);
            bytes(&mut summary, 1, &inner);
            bytes(&mut event, 5, &summary);
        }
    }
    event
}

/// Protobuf's wire types.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Bytes = 2,
    Fixed32 = 5,
}

fn key(to: &mut Vec<u8>, field: u64, wire: Wire) {
    varint(to, field << 3 | wire as u64);
}

fn bytes(to: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(to, field, Wire::Bytes);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// TFRecord masks its checksums, because a checksum of data that holds its checksum is weak.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}
