//! Notes whether the built-in model is there.
fn main() {
    println!("cargo::rustc-check-cfg=cfg(pocket)");
    println!("cargo::rerun-if-changed=../../models/pocket.gguf");
    if std::path::Path::new("../../models/pocket.gguf").exists() {
        println!("cargo::rustc-cfg=pocket");
    }
}
