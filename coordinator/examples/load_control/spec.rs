//! The jobs of the load.

use std::collections::HashMap;

use proto::v1;

/// The effective job as JSON, of `world` ranks.
pub(crate) fn json(name: &str, world: u32, priority: i32) -> String {
    let json = serde_json::json!({
        "job": {"name": name, "seed": 1, "priority": priority, "output-dir": "/tmp/load-control",
                "collective-timeout": "30s"},
        "resources": {"world-size": world, "device": "auto", "threads-per-rank": 1,
                      "transport": "auto"},
        "model": {"kind": "lstm", "hidden-size": 8, "num-layers": 1, "dropout": 0.0,
                  "head-dropout": 0.0, "bidirectional": false},
        "data": {"source": {"kind": "sine", "samples": 64, "validation-samples": 16, "noise": 0.1},
                 "window": 5, "horizon": 1, "shuffle": true, "drop-last": true},
        "training": {"epochs": 1, "validate": "never",
            "batch": {"batch-size": {"value": 65536, "origin": "load"}, "mismatch": "adapt"},
            "optimizer": {"learning-rate": 0.001, "weight-decay": 0.0, "rule":
                {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "bias-correction": true}},
            "schedule": {"kind": "constant"}, "gradient-clipping": 1.0,
            "precision": {"asked": "fp32", "effective": "fp32"}},
        "zero": {"stage": 0, "overlap-comm": false, "reduce-bucket-size": 1},
        "checkpoint": {"keep-last": 2, "keep-best": 1, "async": false, "resume": "never",
                       "layout": "auto"},
        "monitor": {"tensorboard": false, "csv": false}
    });
    json.to_string()
}

pub(crate) fn submit(name: &str, world: u32, priority: i32) -> v1::SubmitRequest {
    v1::SubmitRequest {
        spec_json: json(name, world, priority),
        job_toml: "[job]\n".to_owned(),
        request_id: uuid::Uuid::new_v4().to_string(),
        uploads: HashMap::new(),
        ..Default::default()
    }
}
