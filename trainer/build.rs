//! The trainer finds libtorch by itself, so that nobody has to set `LD_LIBRARY_PATH`: an rpath to where
//! `tools/install.sh` puts it, and one to the library that it was linked against.

/// Set to 1 for binaries that go to other machines: what they say of this one would be wrong there.
const PORTABLE: &str = "RUSTSPEED_PORTABLE";

fn main() {
    for name in ["LIBTORCH", "LIBTORCH_LIB", PORTABLE] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib/rustspeed");
    let folder = std::env::var("LIBTORCH_LIB").or_else(|_| std::env::var("LIBTORCH"));
    let is_portable = std::env::var(PORTABLE).is_ok_and(|value| value == "1");
    if let (Ok(folder), false) = (folder, is_portable) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}/lib");
    }
}
