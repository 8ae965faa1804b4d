//! What only a GPU can show, of one: NCCL loads, a world of one meets, its operations are right and
//! in the order of the stream, an abort ends it. Run by hand through `tests/gpu/check.sh`.
//!
//! Exit codes: 0 all checked, 1 something is wrong, a GPU that cannot be used among it.
#![expect(unsafe_code, reason = "hands memory of the device to NCCL")]
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use collectives::nccl::{Nccl, NcclCommunicator, NcclConfig};
use collectives::{DataType, DeviceCommunicator, Operation, Queue, ReduceOp};
use engine::Device;
use tch::{Kind, Tensor};

const DEADLINE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    if let Err(error) = Device::cuda(0) {
        println!("\n*** NOTHING WAS CHECKED ***\n{error}");
        return ExitCode::FAILURE;
    }
    match check() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), Box<dyn Error>> {
    let nccl = Nccl::load()?;
    println!("NCCL {} from `{}`", nccl.version(), nccl.library());
    let started = Instant::now();
    let config = NcclConfig {
        id: nccl.unique_id()?,
        rank: 0,
        world: 1,
        connect_timeout: DEADLINE,
        collective_timeout: DEADLINE,
        channel: 2,
        called_off: &|| None,
    };
    let mut communicator = NcclCommunicator::connect(&nccl, config)?;
    println!("a world of one met in {:?}", started.elapsed());
    for (kind, data_type) in [
        (Kind::Float, DataType::F32),
        (Kind::Double, DataType::F64),
        (Kind::BFloat16, DataType::Bf16),
        (Kind::Half, DataType::F16),
        (Kind::Int64, DataType::I64),
        (Kind::Uint8, DataType::U8),
    ] {
        for op in ReduceOp::ALL {
            let values = Tensor::f_arange(100, (Kind::Int64, tch::Device::Cuda(0)))?;
            let values = values.f_to_kind(kind)?;
            let expected = values.copy();
            let (data, len) = memory(&values);
            let reduce = Operation::AllReduce { data, len, data_type, op };
            run(&mut communicator, reduce)?;
            same(&format!("all-reduce {op} {data_type}"), &values, &expected)?;
            run(&mut communicator, Operation::ReduceScatterInPlace { data, len, data_type, op })?;
            same(&format!("reduce-scatter {op} {data_type}"), &values, &expected)?;
        }
    }
    let values = Tensor::f_arange(64, (Kind::Float, tch::Device::Cuda(0)))?;
    let expected = values.copy();
    let (data, len) = memory(&values);
    run(&mut communicator, Operation::AllGatherInPlace { data, len })?;
    same("all-gather", &values, &expected)?;
    run(&mut communicator, Operation::Broadcast { data, len, root: 0 })?;
    same("broadcast", &values, &expected)?;
    run(&mut communicator, Operation::Barrier)?;
    stream_order(&mut communicator)?;
    abort(communicator)
}

/// Torch's stream is the default one here, whose handle is null.
const STREAM: Queue = Queue::HOST;

fn run(communicator: &mut NcclCommunicator, operation: Operation) -> Result<(), Box<dyn Error>> {
    // SAFETY: the tensor lives in the caller, and is used on the same stream alone.
    let issued = unsafe { communicator.enqueue(operation, STREAM) }?;
    communicator.watch(issued, Box::new(|| Ok(true)));
    Ok(())
}

/// Long work, then NCCL, then more work, without a wait by the host in between.
fn stream_order(communicator: &mut NcclCommunicator) -> Result<(), Box<dyn Error>> {
    let options = (Kind::Float, tch::Device::Cuda(0));
    let ones = Tensor::f_eye(2048, options)?;
    let mut product = Tensor::f_ones([2048, 2048], options)?;
    for _ in 0..50 {
        product = product.f_matmul(&ones)?;
    }
    let (data, len) = memory(&product);
    let (data_type, op) = (DataType::F32, ReduceOp::Sum);
    run(communicator, Operation::AllReduce { data, len, data_type, op })?;
    let after = product.f_add_scalar(1.0)?;
    let expected = Tensor::f_full([2048, 2048], 2.0, options)?;
    same("work before and after on one stream", &after, &expected)
}

fn abort(mut communicator: NcclCommunicator) -> Result<(), Box<dyn Error>> {
    communicator.abort_handle().abort("the check says so");
    let started = Instant::now();
    // SAFETY: nothing is touched: the communicator has ended.
    let result = unsafe { communicator.enqueue(Operation::Barrier, STREAM) };
    match result {
        Err(error) if error.is_departure() && started.elapsed() < Duration::from_secs(1) => {
            println!("ok    an abort ends it: {error}");
            Ok(())
        }
        other => Err(format!("after an abort: {other:?}").into()),
    }
}

fn memory(tensor: &Tensor) -> (*mut u8, usize) {
    let len = tensor.numel() * tensor.kind().elt_size_in_bytes();
    (tensor.data_ptr().cast(), len)
}

fn same(what: &str, found: &Tensor, expected: &Tensor) -> Result<(), Box<dyn Error>> {
    if found.f_equal(expected)? {
        println!("ok    {what}");
        return Ok(());
    }
    Err(format!("{what}: other values than expected").into())
}
