//! Checkpoints to and from other programs: `export` writes weights for torch and safetensors,
//! `import` takes over what DeepSpeed saved.

use std::path::PathBuf;

use anyhow::anyhow;

use checkpoint::{DataType, ExportOptions, Format, Root, import as importing};
use common::exit::ExitCode;
use common::units::display_bytes;
use service::exit::Failure;

use super::{FromArgs, one};
use crate::commands::Outcome;
use crate::place::failed;
use crate::render;

/// Write the weights as one file with torch's names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The format follows the file's ending where --format is not given: .pt, .pth and .bin are torch's,
anything else is safetensors. torch.load(FILE, weights_only=True) reads the former.

Examples:
  rsctl checkpoints export co2:best --out co2.safetensors
  rsctl checkpoints export runs/co2-lstm-x7k2p9 --out co2.pt
  rsctl checkpoints export runs/co2-lstm-x7k2p9 --out co2.pt --dtype bf16")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    from: FromArgs,
    /// The file to write; one that exists is replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The kind of file
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// The type of floating-point tensors [default: as saved, which is fp32 for parameters]
    #[arg(long, value_enum)]
    dtype: Option<TypeName>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FormatName {
    Safetensors,
    Torch,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum TypeName {
    Fp32,
    Bf16,
    Fp16,
}

impl ExportArgs {
    fn options(&self) -> ExportOptions {
        let ending = self.out.extension().and_then(|ending| ending.to_str());
        let format = match (self.format, ending) {
            (Some(FormatName::Torch), _) | (None, Some("pt" | "pth" | "bin")) => Format::Torch,
            _ => Format::Safetensors,
        };
        let dtype = self.dtype.map(|name| match name {
            TypeName::Fp32 => DataType::F32,
            TypeName::Bf16 => DataType::Bf16,
            TypeName::Fp16 => DataType::F16,
        });
        ExportOptions { format, dtype }
    }
}

pub(super) async fn export(args: &ExportArgs) -> Outcome {
    let one = one(&args.from).await?;
    let exported = checkpoint::export(&one.folder, &args.out, args.options()).map_err(failed)?;
    if args.from.json {
        render::json(&exported)?;
    } else {
        render::data(exported.path.display())?;
        render::talk(format_args!(
            "{} tensors, {} elements, {}",
            exported.tensors,
            exported.elements,
            display_bytes(exported.bytes)
        ));
    }
    if exported.overflowed > 0 {
        let count = exported.overflowed;
        render::warning(format_args!(
            "{count} values are beyond the asked type's range and became infinite"
        ));
    }
    Ok(ExitCode::Done)
}

/// Make a checkpoint of a folder that DeepSpeed saved (stages 0 to 3); nothing in it is executed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FOLDER holds DeepSpeed's file `latest`, or is the folder of one tag. Parameters (the fp32 masters)
and optimizer states come over bit for bit; a run that resumes from DIR goes on with them.

Examples:
  rsctl checkpoints import old/checkpoints --out imported
  rsctl run job.toml --resume imported")]
pub(super) struct ImportArgs {
    /// The folder that DeepSpeed saved
    folder: PathBuf,
    /// The folder to make: a root with one checkpoint in it
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn import(args: &ImportArgs) -> Outcome {
    let out = std::path::absolute(&args.out)
        .map_err(|error| Failure::new(ExitCode::Failed, anyhow!(error)))?;
    let imported = importing::deepspeed(&args.folder, &Root::at(&out))
        .map_err(|error| Failure::new(ExitCode::Failed, error))?;
    for note in &imported.notes {
        render::talk(format_args!("note: {note}"));
    }
    if args.json {
        render::json(&imported)?;
        return Ok(ExitCode::Done);
    }
    render::data(imported.path.display())?;
    let states = match &imported.optimizer_states[..] {
        [] => "no optimizer states".to_owned(),
        states => states.join(", "),
    };
    render::talk(format_args!(
        "DeepSpeed {}, stage {}, {} ranks: step {}, {} parameters of {} elements, {states}",
        imported.deepspeed_version,
        imported.stage,
        imported.world_size,
        imported.step,
        imported.parameters,
        imported.elements,
    ));
    Ok(ExitCode::Done)
}
