//! ONNX and safetensors models lowered onto a kiln-graph Graph.
