//! Port mappings that stay: opened, renewed and removed on a home router.
