//! Compiles the C++ shim against libtorch's headers and gives this crate's tests and examples an
//! rpath to libtorch. `tools/setup.sh` writes the `LIBTORCH*` variables.

use std::path::PathBuf;

fn main() {
    for name in ["LIBTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_CXX11_ABI"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=native");
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let include = variable("LIBTORCH_INCLUDE").or_else(|| variable("LIBTORCH"));
    let lib = variable("LIBTORCH_LIB").or_else(|| variable("LIBTORCH"));
    let (Some(include), Some(lib)) = (include, lib) else {
        println!("cargo:error=LIBTORCH is not set: run `make setup`, which fetches libtorch");
        return;
    };
    let abi = std::env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        .define("_GLIBCXX_USE_CXX11_ABI", abi.as_str())
        .include(include.join("include"))
        .include(include.join("include/torch/csrc/api/include"))
        .file("native/device.cpp")
        .file("native/lane.cpp")
        .file("native/shim.cpp")
        .file("native/lstm.cpp")
        .file("native/unit.cpp")
        .file("native/memory.cpp")
        .compile("rustspeed_shim");
    // Binaries of other crates (the trainer) say this in their own build scripts.
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.join("lib").display());
}
