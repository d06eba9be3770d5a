//! A model, compiled on its first run; then built ahead of time, saved, loaded and run again.

use kiln::prelude::*;

#[kiln::model]
fn classifier<B>(x: Tensor<f32, B, 64>) -> Tensor<f32, B, 10> {
    let hidden = x.matmul(weight!("hidden", f32, [64, 128])).gelu();
    hidden.matmul(weight!("classes", f32, [128, 10])).softmax(-1)
}

fn main() -> kiln::Result<()> {
    let model = Model::from(classifier::graph()?).with_random_weights(1)?;
    let x: Vec<f32> = (0..2 * 64).map(|i| (i as f32 * 0.37).sin()).collect();

    // Compiled for the device at hand, `cuda:0` for instance, and kept: the next call finds it.
    let mut session = kiln::jit(&model, "cpu")?;
    session.bind("x", &[2, 64], &x)?;
    session.run_bound()?;
    let mut scores = [0f32; 2 * 10];
    session.read("output", &mut scores)?;
    println!("{scores:.3?}");

    let path = std::env::temp_dir().join("classifier.kiln");
    EngineBuilder::new(&model).target("cpu")?.build()?.save(&path)?;
    let mut session = Engine::load(&path)?.session("cpu")?;
    let again = session.run(&[("x", &Tensor::from_slice(&[2, 64], &x)?)])?;
    assert_eq!(again[0].1, Tensor::from_slice(&[2, 10], &scores)?);
    println!("the saved engine agrees");
    Ok(())
}
