#[derive(Clone, Debug, PartialEq)]
pub struct RegisterLayout {
    pub shape: Vec<u32>,
}
#[derive(Clone, Debug, PartialEq)]
pub struct SharedLayout {
    pub shape: Vec<u32>,
}
