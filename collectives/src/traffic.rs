//! What a communicator has sent.

use std::sync::{Mutex, PoisonError};

use crate::{DataType, OpKind};

/// Bytes of buffers that one communicator has sent, headers apart, as its links counted them. May
/// be read while the communicator works on a thread of its own.
#[derive(Debug, Default)]
pub struct Traffic {
    // A handful of rows. Held for an addition or a look, never across an operation.
    rows: Mutex<Vec<Row>>,
}

#[derive(Debug)]
struct Row {
    op: OpKind,
    data_type: Option<DataType>,
    bytes: u64,
}

impl Traffic {
    /// Of one kind of operation; `data_type` is the elements' of a reduction, None for others.
    #[must_use]
    pub fn bytes(&self, op: OpKind, data_type: Option<DataType>) -> u64 {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let row = rows.iter().find(|row| (row.op, row.data_type) == (op, data_type));
        row.map_or(0, |row| row.bytes)
    }

    pub(crate) fn add(&self, op: OpKind, data_type: Option<DataType>, bytes: u64) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        match rows.iter_mut().find(|row| (row.op, row.data_type) == (op, data_type)) {
            Some(row) => row.bytes += bytes,
            None => rows.push(Row { op, data_type, bytes }),
        }
    }
}
