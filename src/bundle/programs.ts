/** The host programs this room starts, each a name looked up in PATH or an absolute path. */
export interface BundlePrograms {
  mmdebstrap: string;
  mke2fs: string;
  tar: string;
  zstd: string;
  xz: string;
  lz4: string;
  cp: string;
}
