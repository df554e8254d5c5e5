/** A tree of files as it will stand on a root disk: owners, modes and attributes are those inside of the guest. */

export type FileKind = 'file' | 'directory' | 'link' | 'char' | 'block' | 'fifo';

/** Where the content of a file is. */
export interface FileSource {
  /** number of the layer, from 0 for the lowest */
  layer: number;
  /** number of the entry in it, from 0 */
  entry: number;
}

/** A part of a file that is no hole. */
export interface DataPiece {
  /** `bytes` from the beginning of the file */
  offset: number;
  /** `bytes` */
  length: number;
}

/** One inode. A file with several names is the same object in several directories. */
export interface FileNode {
  kind: FileKind;
  /** permission bits with setuid, setgid and sticky: the lower 12 */
  mode: number;
  uid: number;
  gid: number;
  /** seconds since 1970 */
  mtime: number;
  /** by full name, e.g. `security.capability` */
  xattrs?: Map<string, Buffer>;
  /** of a file, in `bytes` */
  size: number;
  /** of a file with holes, in order; all of it is data without */
  pieces?: DataPiece[];
  /** of a file that is not empty */
  source?: FileSource;
  /** of a link, a character for each byte */
  target?: string;
  /** of a device */
  device?: { major: number; minor: number };
  /** of a directory by name, a character for each byte; undefined for all others */
  children?: Map<string, FileNode>;
  /** layer that last said something of it */
  layer: number;
}

export function newDirectory(layer: number): FileNode & { children: Map<string, FileNode> } {
  return { kind: 'directory', mode: 0o755, uid: 0, gid: 0, mtime: 0, size: 0, children: new Map(), layer };
}

/** What of a file is data: all of it, or its pieces. */
export function piecesOf({ size, pieces }: FileNode): readonly DataPiece[] {
  return pieces ?? (size === 0 ? [] : [{ offset: 0, length: size }]);
}

/** Every inode once, directories before what is in them. */
export function* eachNode(root: FileNode): Generator<FileNode> {
  const seen = new Set<FileNode>([root]);
  const waiting = [root];
  for (let node = waiting.pop(); node !== undefined; node = waiting.pop()) {
    yield node;
    for (const child of node.children?.values() ?? []) {
      if (seen.has(child)) continue;
      seen.add(child);
      waiting.push(child);
    }
  }
}
