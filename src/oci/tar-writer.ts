/** Headers of a tar archive (POSIX 1003.1-2001, pax): the same file always becomes the same bytes. */
import type { DataPiece, FileKind } from '../core/file-tree.ts';

/** What an archive says of a file, its data aside; texts have a character for each byte. */
export interface TarMember {
  /** without a slash before or behind it; empty for the root */
  path: string;
  kind: FileKind | 'hard-link';
  mode: number;
  uid: number;
  gid: number;
  /** whole seconds since 1970 */
  mtime: number;
  /** of a file, in `bytes` */
  size: number;
  /** of a file with holes: the parts that follow as data */
  pieces?: readonly DataPiece[];
  /** of a link of either kind */
  target?: string;
  device?: { major: number; minor: number };
  xattrs?: ReadonlyMap<string, Buffer>;
}

const BLOCK = 512;
const TYPES: Readonly<Record<TarMember['kind'], string>> = {
  ...{ file: '0', 'hard-link': '1', link: '2', char: '3', block: '4', directory: '5', fifo: '6' },
};
const NAME_BYTES = 100;
const MAX_OCTAL_7 = 0o7777777;
const MAX_OCTAL_11 = 0o77777777777;
/** Of GNU tar: where a file with holes has its place in names for programs that know nothing of them. */
const SPARSE_PLACE = 'GNUSparseFile.0';

/** Ends an archive. */
export const TAR_END = Buffer.alloc(2 * BLOCK);

/** Zeros behind data, up to a whole block. */
export function tarPadding(bytes: number): Buffer {
  return Buffer.alloc((BLOCK - (bytes % BLOCK)) % BLOCK);
}

/** All that stands before the data of a file. */
export function tarHeader(member: TarMember): Buffer {
  const name = member.kind === 'directory' ? `${member.path === '' ? '.' : member.path}/` : member.path;
  const target = member.target ?? '';
  const sparse = member.pieces && sparseMap(member.pieces);
  const stored = member.pieces ? bytesOf(member.pieces) + (sparse?.length ?? 0) : member.size;
  const records: [string, string | Buffer][] = [];
  if (name.length > NAME_BYTES && !sparse) records.push(['path', latin(name)]);
  if (target.length > NAME_BYTES) records.push(['linkpath', latin(target)]);
  if (member.uid > MAX_OCTAL_7) records.push(['uid', String(member.uid)]);
  if (member.gid > MAX_OCTAL_7) records.push(['gid', String(member.gid)]);
  if (stored > MAX_OCTAL_11) records.push(['size', String(stored)]);
  if (member.mtime < 0 || member.mtime > MAX_OCTAL_11) records.push(['mtime', String(member.mtime)]);
  if (sparse) {
    records.push(['GNU.sparse.major', '1'], ['GNU.sparse.minor', '0']);
    records.push(['GNU.sparse.name', latin(name)], ['GNU.sparse.realsize', String(member.size)]);
  }
  // readers take what follows the first `=` for the value, so a name that has one cannot be written
  const names = [...(member.xattrs?.keys() ?? [])].filter((key) => !/[=\0]/.test(key)).sort();
  for (const key of names) records.push([`SCHILY.xattr.${key}`, member.xattrs?.get(key) ?? '']);
  const own = header(sparse ? sparseName(name) : name, TYPES[member.kind], target, {
    ...{ mode: member.mode, uid: member.uid, gid: member.gid, size: stored, mtime: member.mtime },
    ...(member.device ?? {}),
  });
  return Buffer.concat([...extended(records), own, ...(sparse ? [sparse] : [])]);
}

/** A header of its own before the file's; empty when everything fits into that. */
function extended(records: readonly [string, string | Buffer][]): Buffer[] {
  if (records.length === 0) return [];
  const body = Buffer.concat(records.map(([key, value]) => record(key, Buffer.from(value))));
  const numbers = { mode: 0o644, uid: 0, gid: 0, size: body.length, mtime: 0 };
  return [header('PaxHeaders/0', 'x', '', numbers), body, tarPadding(body.length)];
}

/** `LENGTH KEY=VALUE\n`, the length its own digits included. */
function record(key: string, value: Buffer): Buffer {
  const rest = Buffer.concat([Buffer.from(` ${key}=`, 'latin1'), value, Buffer.from('\n')]);
  let length = rest.length + 1;
  while (String(length).length + rest.length !== length) length += 1;
  return Buffer.concat([Buffer.from(String(length)), rest]);
}

interface Numbers {
  mode: number;
  uid: number;
  gid: number;
  size: number;
  mtime: number;
  major?: number;
  minor?: number;
}

function header(name: string, type: string, target: string, numbers: Numbers): Buffer {
  const block = Buffer.alloc(BLOCK);
  // what does not fit is in the records before it
  const octal = (value: number, at: number, digits: number) => {
    const fits = value >= 0 && value < 8 ** digits;
    block.write((fits ? value : 0).toString(8).padStart(digits, '0'), at, 'latin1');
  };
  block.write(name.slice(0, NAME_BYTES), 0, 'latin1');
  octal(numbers.mode, 100, 7);
  octal(numbers.uid, 108, 7);
  octal(numbers.gid, 116, 7);
  octal(numbers.size, 124, 11);
  octal(numbers.mtime, 136, 11);
  block.write('        ', 148, 'latin1');
  block.write(type, 156, 'latin1');
  block.write(target.slice(0, NAME_BYTES), 157, 'latin1');
  block.write('ustar\x0000', 257, 'latin1');
  octal(numbers.major ?? 0, 329, 7);
  octal(numbers.minor ?? 0, 337, 7);
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    6,
  );
  block.writeUInt8(0, 154);
  return block;
}

/** How many parts there are, then offset and length of each, one number a line, up to a whole block (format 1.0). */
function sparseMap(pieces: readonly DataPiece[]): Buffer {
  const numbers = [pieces.length, ...pieces.flatMap(({ offset, length }) => [offset, length])];
  const text = Buffer.from(numbers.map((number) => `${number}\n`).join(''), 'latin1');
  return Buffer.concat([text, tarPadding(text.length)]);
}

function sparseName(name: string): string {
  const at = name.lastIndexOf('/');
  return `${at < 0 ? '.' : name.slice(0, at)}/${SPARSE_PLACE}/${name.slice(at + 1)}`;
}

function bytesOf(pieces: readonly DataPiece[]): number {
  return pieces.reduce((sum, { length }) => sum + length, 0);
}

function latin(text: string): Buffer {
  return Buffer.from(text, 'latin1');
}
