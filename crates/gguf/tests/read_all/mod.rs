//! What any bytes must survive: shared by the tests and the fuzz target.

use gguf::{Gguf, GgufWriter};

/// Opens `bytes` and, if that works, touches all that can be asked of them; then writes what was
/// read, checks that reading and writing that once more changes nothing, and returns it.
pub fn read_all(bytes: &[u8]) -> Option<Vec<u8>> {
    let gguf = Gguf::from_vec(bytes.to_vec()).ok()?;
    let metadata = gguf.metadata();
    for (key, value) in metadata.iter() {
        assert!(!value.to_string().is_empty());
        assert_eq!(metadata.opt_u64(key).is_ok(), value.as_int().is_some_and(|x| x >= 0));
        let _ = (metadata.strings(key), metadata.u32s(key), metadata.f32_per_layer(key, 3));
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
        assert_eq!(gguf.data(tensor).len() as u64, tensor.bytes);
        assert!(tensor.end() <= gguf.file_len());
    }
    let once = rewrite(&gguf);
    let again = Gguf::from_vec(once.clone()).expect("our own file opens");
    assert_eq!(again.tensors().len(), gguf.tensors().len());
    assert!(rewrite(&again) == once, "writing twice gives two files");
    Some(once)
}

/// The same model, written anew.
fn rewrite(gguf: &Gguf) -> Vec<u8> {
    let mut writer = GgufWriter::new(gguf.metadata().clone()).expect("metadata was accepted");
    for tensor in gguf.tensors() {
        writer.tensor(&tensor.name, &tensor.dims, tensor.kind).expect("tensor was accepted");
    }
    let data = |name: &str| gguf.data(gguf.tensor(name).expect("a tensor of the model"));
    writer.write_vec(|tensor, out| out.write_all(&data(&tensor.name))).expect("memory")
}
