//! Lowering a Plan, memory planning, the engine file, Session and Device.
