//! An operation in NCCL's words: counts of elements, its numbers for types and reductions. Lengths are
//! checked here, before the library sees them; calls nothing.

use std::ffi::{c_int, c_void};

use cudarc::nccl::sys;

use crate::{DataType, Error, OpKind, Operation, ReduceOp};

/// What a barrier reduces.
pub(super) const TOKEN_BYTES: usize = 8;

/// An operation as NCCL wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) input: *const c_void,
    pub(crate) output: *mut c_void,
    /// Elements: of the whole for all-reduce and broadcast, of one part for the others.
    pub(crate) count: usize,
    pub(crate) data_type: c_int,
    /// Of what `count` counts.
    pub(super) bytes: usize,
    pub(super) reduced: Option<DataType>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    AllReduce(c_int),
    ReduceScatter(c_int),
    AllGather,
    Broadcast(c_int),
}

impl Call {
    /// Lengths are checked before the library sees them.
    pub(crate) fn of(
        operation: Operation,
        (rank, world): (u32, u32),
        token: *mut c_void,
    ) -> Result<Self, Error> {
        let op = operation.kind();
        let (own, parts) = (rank as usize, world as usize);
        let part_of = |len: usize, element: usize| {
            let unit = element * parts;
            let expected = || format!("a multiple of {unit} ({parts} parts of whole elements)");
            whole(op, "buffer", (len, unit), expected).map(|()| len / parts)
        };
        let same = |what, actual: usize, wanted: usize, part: usize| {
            let expected = format!("{wanted} ({parts} parts of {part})");
            let wrong = Error::BadLength { op, what, actual, expected };
            if actual == wanted { Ok(()) } else { Err(wrong) }
        };
        Ok(match operation {
            Operation::AllReduce { data, len, data_type, op: by } => {
                elements(op, "data", len, data_type)?;
                Self::reduced(Kind::AllReduce, (data, data), len, (data_type, by))
            }
            Operation::ReduceScatter {
                input,
                input_len,
                output,
                output_len,
                data_type,
                op: by,
            } => {
                elements(op, "output", output_len, data_type)?;
                same("input", input_len, output_len * parts, output_len)?;
                Self::reduced(Kind::ReduceScatter, (input, output), output_len, (data_type, by))
            }
            Operation::ReduceScatterInPlace { data, len, data_type, op: by } => {
                let part = part_of(len, data_type.size())?;
                let target = data.wrapping_add(part * own);
                Self::reduced(Kind::ReduceScatter, (data, target), part, (data_type, by))
            }
            Operation::AllGather { input, input_len, output, output_len } => {
                same("output", output_len, input_len * parts, input_len)?;
                Self::moved(Kind::AllGather, (input, output), input_len)
            }
            Operation::AllGatherInPlace { data, len } => {
                let part = part_of(len, 1)?;
                Self::moved(Kind::AllGather, (data.wrapping_add(part * own), data), part)
            }
            Operation::Broadcast { data, len, root } => match c_int::try_from(root) {
                Ok(from) if root < world => Self::moved(Kind::Broadcast(from), (data, data), len),
                _ => return Err(Error::NoSuchRank { op, rank: root, own: rank, world }),
            },
            Operation::Barrier => {
                let token = token.cast::<u8>();
                let by = ReduceOp::Max;
                Self::reduced(Kind::AllReduce, (token, token), TOKEN_BYTES, (DataType::I64, by))
            }
        })
    }

    fn reduced(
        kind: fn(c_int) -> Kind,
        (input, output): Ends,
        bytes: usize,
        (data_type, op): (DataType, ReduceOp),
    ) -> Self {
        Self {
            kind: kind(reduction(op)),
            input: input.cast(),
            output: output.cast(),
            count: bytes / data_type.size(),
            data_type: element(data_type),
            bytes,
            reduced: Some(data_type),
        }
    }

    fn moved(kind: Kind, (input, output): Ends, bytes: usize) -> Self {
        Self {
            kind,
            input: input.cast(),
            output: output.cast(),
            count: bytes,
            data_type: element(DataType::U8),
            bytes,
            reduced: None,
        }
    }

    /// What one rank of a ring sends.
    pub(super) fn sent(&self, world: u32) -> u64 {
        let (bytes, others, world) = (self.bytes as u64, u64::from(world - 1), u64::from(world));
        match self.kind {
            Kind::AllReduce(_) => 2 * bytes * others / world,
            Kind::ReduceScatter(_) | Kind::AllGather => bytes * others,
            Kind::Broadcast(_) => bytes * others / world,
        }
    }
}

/// Where an operation reads and writes.
type Ends = (*const u8, *mut u8);

fn elements(op: OpKind, what: &'static str, len: usize, data_type: DataType) -> Result<(), Error> {
    let size = data_type.size();
    whole(op, what, (len, size), || format!("a multiple of {size} ({data_type})"))
}

fn whole(
    op: OpKind,
    what: &'static str,
    (len, unit): (usize, usize),
    expected: impl Fn() -> String,
) -> Result<(), Error> {
    if len.is_multiple_of(unit) {
        return Ok(());
    }
    Err(Error::BadLength { op, what, actual: len, expected: expected() })
}

fn element(data_type: DataType) -> c_int {
    use sys::ncclDataType_t as Nccl;
    let element = match data_type {
        DataType::F32 => Nccl::ncclFloat32,
        DataType::F64 => Nccl::ncclFloat64,
        DataType::Bf16 => Nccl::ncclBfloat16,
        DataType::F16 => Nccl::ncclFloat16,
        DataType::I64 => Nccl::ncclInt64,
        DataType::U8 => Nccl::ncclUint8,
    };
    element as c_int
}

fn reduction(op: ReduceOp) -> c_int {
    use sys::ncclRedOp_t as Nccl;
    let op = match op {
        ReduceOp::Sum => Nccl::ncclSum,
        ReduceOp::Mean => Nccl::ncclAvg,
        ReduceOp::Max => Nccl::ncclMax,
        ReduceOp::Min => Nccl::ncclMin,
    };
    op as c_int
}
