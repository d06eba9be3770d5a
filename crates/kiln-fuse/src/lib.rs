//! Fusion by equality saturation: Graph to e-graph to a Plan of Regions.
