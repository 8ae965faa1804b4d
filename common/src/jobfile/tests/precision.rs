//! Precision blocks of DeepSpeed, and `training.precision`.

use super::*;
use crate::spec::{
    DynamicLossScale, LossScale, Offload, OffloadDevice, OnOverflow, Precision, PrecisionKind,
};

fn precision(json: &str) -> Precision {
    with_deepspeed(json).spec().training.precision
}

#[test]
fn bf16_is_trained_in_bf16_and_skips_what_overflows() {
    for json in [
        "{bf16: {enabled: true}}",
        "{bfloat16: {enabled: true}}",
        "{torch_autocast: {enabled: true}}",
        "{data_types: {param_dtype: \"torch.bfloat16\"}}",
    ] {
        let expected = Precision {
            asked: PrecisionKind::Bf16,
            effective: PrecisionKind::Bf16,
            grad_accumulation: PrecisionKind::Bf16,
            communication: PrecisionKind::Bf16,
            on_overflow: OnOverflow::Skip,
            ..Precision::FP32
        };
        assert_eq!(precision(json), expected, "{json}");
    }
    let json = "{bf16: {enabled: true, check_grad_overflow: false},
                 data_types: {grad_accum_dtype: \"fp32\"}, communication_data_type: \"FP32\",
                 prescale_gradients: true, gradient_predivide_factor: 2}";
    let expected = Precision {
        asked: PrecisionKind::Bf16,
        effective: PrecisionKind::Bf16,
        prescale_gradients: true,
        gradient_predivide_factor: 2.0,
        ..Precision::FP32
    };
    assert_eq!(precision(json), expected);
    let notes = with_deepspeed(json).spec().notes.join("\n");
    assert!(notes.contains("check_grad_overflow: DeepSpeed then applies"), "{notes}");
}

#[test]
fn fp16_is_trained_in_fp32_on_a_cpu_and_said() {
    for json in [
        "{fp16: {enabled: true, loss_scale: 0, initial_scale_power: 16}}",
        "{fp16: {enabled: true}, communication_data_type: \"fp16\",
          data_types: {grad_accum_dtype: \"half\"}}",
        "{torch_autocast: {enabled: true, dtype: \"float16\"}}",
    ] {
        let spec = with_deepspeed(json).spec();
        let expected = Precision { asked: PrecisionKind::Fp16, ..Precision::FP32 };
        assert_eq!(spec.training.precision, expected, "{json}");
        assert!(spec.notes.iter().any(|note| note.contains("trained in fp32")), "{json}");
    }
}

#[test]
fn fp16_can_be_trained_in_fp16_with_deepspeeds_loss_scale() {
    let native = |json| {
        let set = with_deepspeed(json).set("training.cpu-fp16=native");
        set.spec().training.precision
    };
    let defaults = native("{fp16: {enabled: true}}");
    assert_eq!(defaults.loss_scale, Some(LossScale::Dynamic(DynamicLossScale::default())));
    assert_eq!(
        (defaults.effective, defaults.communication, defaults.on_overflow),
        (PrecisionKind::Fp16, PrecisionKind::Fp16, OnOverflow::Skip)
    );
    let given = native(
        "{fp16: {enabled: true, loss_scale: 0, initial_scale_power: \"8\", loss_scale_window: 5e1,
          hysteresis: 3, consecutive_hysteresis: true, min_loss_scale: 4}}",
    );
    let expected = DynamicLossScale {
        initial_scale_power: 8,
        window: 50,
        hysteresis: 3,
        consecutive_hysteresis: true,
        min: 4.0,
    };
    assert_eq!(given.loss_scale, Some(LossScale::Dynamic(expected)));
    let fixed = native("{fp16: {enabled: true, loss_scale: 128}}");
    assert_eq!(fixed.loss_scale, Some(LossScale::Static { value: 128.0 }));
}

#[test]
fn on_gpus_fp16_is_fp16() {
    let of = |device: &str| {
        let job = with_deepspeed("{fp16: {enabled: true}}");
        job.set(&format!("resources.device={device}")).spec()
    };
    let cuda = of("cuda");
    assert_eq!(cuda.training.precision.effective, PrecisionKind::Fp16);
    assert!(cuda.training.precision.loss_scale.is_some());
    assert!(!cuda.notes.iter().any(|note| note.contains("fp32")), "{:?}", cuda.notes);
    for (device, tells) in [("auto", true), ("cpu", false)] {
        let spec = of(device);
        assert_eq!(spec.training.precision.effective, PrecisionKind::Fp32, "{device}");
        let note = spec.notes.iter().find(|note| note.contains("trained in fp32")).unwrap();
        assert_eq!(note.contains("resources.device"), tells, "{note}");
    }
}

#[test]
fn a_loss_scale_is_explained_and_survives_toml_and_json() {
    let job =
        with_deepspeed("{fp16: {enabled: true, hysteresis: 3}}").set("training.cpu-fp16=native");
    job.explain(
        "training.precision",
        &expect![[r#"
        training.precision = "fp16"  # ds.json:1 fp16.enabled
        training.precision.grad-accumulation = "fp16"  # DeepSpeed default: the model's
        training.precision.communication = "fp16"  # DeepSpeed default: the model's
        training.precision.prescale-gradients = false  # DeepSpeed default
        training.precision.gradient-predivide-factor = 1  # DeepSpeed default
        training.precision.on-overflow = "skip"  # follows training.precision
        training.precision.loss-scale.kind = "dynamic"  # DeepSpeed default
        training.precision.loss-scale.initial-scale-power = 16  # DeepSpeed default
        training.precision.loss-scale.window = 1000  # DeepSpeed default
        training.precision.loss-scale.hysteresis = 3  # ds.json:1 fp16.hysteresis
        training.precision.loss-scale.consecutive-hysteresis = false  # DeepSpeed default
        training.precision.loss-scale.min = 1  # DeepSpeed default
    "#]],
    );
    for json in ["{fp16: {enabled: true}}", "{fp16: {enabled: true, loss_scale: 8}}"] {
        let spec = with_deepspeed(json).set("training.cpu-fp16=native").spec();
        let toml = explain::to_toml(&spec).unwrap();
        assert_eq!(explain::from_toml(&toml).unwrap(), spec);
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap(), spec);
    }
}

#[test]
fn what_no_precision_can_be_is_refused() {
    with_deepspeed(
        r#"{
            "fp16": {"enabled": true, "loss_scale": -1, "hysteresis": 0, "loss_scale_window": 0,
                     "min_loss_scale": 0, "initial_scale_power": 200},
            "data_types": {"grad_accum_dtype": "bf16", "param_dtype": "fp32"},
            "communication_data_type": "int8",
            "gradient_predivide_factor": 0,
            "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme", "ratio": 2}}
        }"#,
    )
    .check(&expect![[r#"
        ds.json:2: fp16.loss_scale = -1: expected a number of at least 0
        ds.json:2: fp16.loss_scale_window = 0: expected an integer from 1 to 1099511627776
        ds.json:2: fp16.hysteresis = 0: expected an integer from 1 to 1073741824
        ds.json:3: fp16.initial_scale_power = 200: expected an integer from 0 to 127
        ds.json:3: fp16.min_loss_scale = 0: expected a number above 0
        ds.json:4: data_types.param_dtype = "fp32": disagrees with fp16 at ds.json:2 fp16.enabled
        ds.json:4: data_types.grad_accum_dtype: gradients of a model in fp16 add up in it or in fp32, not in bf16
        ds.json:5: communication_data_type = "int8": expected `fp32`, `bf16` or `fp16`
        ds.json:6: gradient_predivide_factor = 0: expected a number above 0
        ds.json:7: zero_optimization.offload_optimizer.device = "nvme": not supported yet; this version has `none` or `cpu`
        ds.json:7: zero_optimization.offload_optimizer.ratio = 2: expected a number of at least 0 and at most 1
    "#]]);
}

#[test]
fn an_offloaded_optimizer_stays_where_it_is_on_a_cpu_and_that_is_said() {
    let given = "{zero_optimization: {stage: 2,
                  offload_optimizer: {device: \"cpu\", pin_memory: false, ratio: 0.5}}}";
    for (json, pin_memory, ratio) in
        [(given, false, 0.5), ("{zero_optimization: {stage: 1, cpu_offload: true}}", true, 1.0)]
    {
        let spec = with_deepspeed(json).spec();
        let expected = Offload { device: OffloadDevice::Cpu, ratio, pin_memory };
        assert_eq!(spec.zero.offload_optimizer, Some(expected), "{json}");
        let notes = spec.notes.join("\n");
        assert!(notes.contains("no effect on a CPU"), "{notes}");
    }
    let none = "{zero_optimization: {stage: 2, offload_optimizer: {device: \"none\"}}}";
    assert_eq!(with_deepspeed(none).spec().zero.offload_optimizer, None);
}

#[test]
fn offloaded_parameters_stay_where_they_are_on_a_cpu_and_that_is_said() {
    for json in [
        "{zero_optimization: {stage: 3, offload_param: {device: \"cpu\"}}}",
        "{zero_optimization: {stage: 3, cpu_offload_param: true}}",
    ] {
        let notes = with_deepspeed(json).spec().notes.join("\n");
        assert!(notes.contains("parameters are in host memory already"), "{json}: {notes}");
    }
    let nvme = "{zero_optimization: {stage: 3, offload_param: {device: \"nvme\"}}}";
    let mistakes = format!("{:?}", with_deepspeed(nvme).load().unwrap_err());
    assert!(mistakes.contains("not supported yet"), "{mistakes}");
}
