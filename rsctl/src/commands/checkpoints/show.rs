//! Checkpoints as text and JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use checkpoint::{Manifest, Reader};
use common::status::CheckpointRow;
use common::units::display_bytes;

use crate::render::table::{Align, number, optional, render};

pub(super) fn list(rows: &[CheckpointRow]) -> String {
    const COLUMNS: [(&str, Align); 9] = [
        ("TAG", Align::Left),
        ("STEP", Align::Right),
        ("LOSS", Align::Right),
        ("VAL", Align::Right),
        ("RANKS", Align::Right),
        ("ZERO", Align::Right),
        ("SIZE", Align::Right),
        ("KEPT", Align::Left),
        ("PATH", Align::Left),
    ];
    let rows = rows.iter().map(|row| {
        let kept = match (row.durable, row.pinned) {
            (false, _) => "not durable",
            (true, true) => "pinned",
            (true, false) => "",
        };
        let place = row.worker.as_ref().map_or_else(String::new, |name| format!("{name}:"));
        [
            row.tag.clone(),
            row.step.to_string(),
            optional(row.loss, number),
            optional(row.val_loss, number),
            row.world_size.to_string(),
            row.zero_stage.to_string(),
            display_bytes(row.bytes),
            kept.to_owned(),
            format!("{place}{}", row.path),
        ]
    });
    render(&COLUMNS, rows)
}

/// The manifest and, where asked for, its tensors.
pub(super) fn json(reader: &Reader, tensors: bool) -> Value {
    let mut value = json!(reader.manifest());
    value["path"] = json!(reader.folder());
    if tensors {
        value["tensors"] = json!(reader.tensors());
    }
    value
}

pub(super) fn text(reader: &Reader, tensors: bool) -> String {
    let manifest = reader.manifest();
    let mut text = facts(reader, manifest);
    const SHARDS: [(&str, Align); 3] =
        [("SHARD", Align::Left), ("SIZE", Align::Right), ("BLAKE3", Align::Left)];
    let rows = manifest
        .shards
        .iter()
        .map(|shard| [shard.file.to_string(), display_bytes(shard.bytes), shard.blake3.clone()]);
    let _ = write!(text, "\n{}", render(&SHARDS, rows));
    if tensors {
        const TENSORS: [(&str, Align); 5] = [
            ("TENSOR", Align::Left),
            ("KIND", Align::Left),
            ("TYPE", Align::Left),
            ("SHAPE", Align::Left),
            ("SLICES", Align::Right),
        ];
        let rows = reader.tensors().into_iter().map(|tensor| {
            [
                tensor.name,
                tensor.kind.to_string(),
                tensor.dtype.to_string(),
                format!("{:?}", tensor.shape),
                tensor.slices.to_string(),
            ]
        });
        let _ = write!(text, "\n{}", render(&TENSORS, rows));
    }
    text
}

fn facts(reader: &Reader, manifest: &Manifest) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<18}{value}");
    };
    field("checkpoint", reader.folder().display().to_string());
    field("job", format!("{}, generation {}", manifest.job_id, manifest.generation));
    field("step", manifest.step.to_string());
    field("epochs done", manifest.epoch.to_string());
    field("samples", manifest.samples.to_string());
    field("loss", optional(manifest.loss, number));
    field("validation loss", optional(manifest.val_loss, number));
    field("ranks", format!("{}, ZeRO stage {}", manifest.world_size, manifest.stage));
    field("threads per rank", manifest.threads_per_rank.to_string());
    field("instruction set", manifest.instruction_set.clone());
    field("seed", manifest.seed.to_string());
    field("size", display_bytes(manifest.bytes()));
    field("model", manifest.model.to_string());
    text
}
