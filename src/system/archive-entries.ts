/** The entries of an archive from elsewhere, looked at before anything of it is written. */
import { dirname, join, normalize } from 'node:path';
import { BangerError } from '../errors.ts';

/** What an archive should hold, for the search and for messages. */
export interface ArchiveKind {
  /** `bundle` or `image` */
  noun: string;
  /** file that describes the rest, e.g. `bundle.json` */
  manifest: string;
  /** command that makes such archives */
  madeBy: string;
  /** setting that says where they are kept */
  setting: string;
}

export interface ArchiveEntry {
  kind: 'file' | 'directory' | 'link' | 'hardlink' | 'special';
  /** path as the archive has it, without a leading `./` */
  path: string;
  /** bytes a file has when unpacked, holes included */
  size: number;
  /** where a link leads */
  target: string | undefined;
}

const KINDS = new Map<string, ArchiveEntry['kind']>([
  ['-', 'file'],
  ['d', 'directory'],
  ['l', 'link'],
  ['h', 'hardlink'],
]);

/** Kind and mode, owner, size or device, time, name and target. */
const LINE =
  /^(\S)\S{9}[.+]? {1,99}[0-9/]{3,30} {1,99}(\d{1,20})(?:,\d{1,20})? {1,99}\d{4,12}-\d\d-\d\d \d\d:\d\d:[\d.]{2,20} ("(?:[^"\\]|\\.)*")(?:( -> | link to )("(?:[^"\\]|\\.)*"))?$/;

const ESCAPES = new Map([
  ['n', '\n'],
  ['t', '\t'],
  ['r', '\r'],
  ['a', '\x07'],
  ['b', '\b'],
  ['f', '\f'],
  ['v', '\v'],
]);

const NOT_LATIN1 = /[^\0-\xff]/;

/** How tar is asked for a list in which no name can look like something else. */
export const LISTING_OPTIONS = ['--list', '--verbose', '--numeric-owner', '--full-time', '--quoting-style=c'] as const;

/** A list of as many entries as there may be, with the longest paths that anything has; more is not read. */
export const MAX_LISTING_BYTES = 32 * 1024 * 1024;

/** Nothing banger exports comes near these; they bound what listing and hashing cost. */
const MAX_ENTRIES = 200_000;
const MAX_APPARENT_BYTES = 1024 ** 4;

/**
 * Reads the output of tar with `LISTING_OPTIONS`: names and targets are in quotes, as C writes them.
 * @throws BangerError `corrupt` when a line is none of an entry
 */
export function parseListing(text: string): ArchiveEntry[] {
  const entries: ArchiveEntry[] = [];
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const match = LINE.exec(line);
    const kind = KINDS.get(match?.[1] ?? '') ?? 'special';
    const between = kind === 'link' ? ' -> ' : kind === 'hardlink' ? ' link to ' : undefined;
    if (!match || match[4] !== between) {
      throw new BangerError('corrupt', `The archive has an entry tar describes as ${JSON.stringify(line)}.`);
    }
    const path = unquote(match[3] ?? '')
      .replace(/^(\.\/)+/, '')
      .replace(/\/$/, '');
    const target = match[5] === undefined ? undefined : unquote(match[5]);
    entries.push({ kind, path, size: Number(match[2]), target });
  }
  return entries;
}

/**
 * Refuses what nothing banger exports holds: paths and links that lead out, devices, and more than any machine unpacks.
 * @returns the directory inside the archive that holds the manifest, `''` when it is the top
 * @throws BangerError `corrupt` with the entry
 */
export function checkEntries(entries: readonly ArchiveEntry[], file: string, kind: ArchiveKind): string {
  const hint = `Import only archives made by: ${kind.madeBy}`;
  const refuse = (entry: ArchiveEntry, why: string) =>
    new BangerError('corrupt', `${file}: the entry ${JSON.stringify(entry.path)} ${why}.`, { hint });
  if (entries.length > MAX_ENTRIES) {
    throw new BangerError('corrupt', `${file} has too many entries: this is no ${kind.noun}.`, { hint });
  }
  let bytes = 0;
  for (const entry of entries) {
    if (entry.path.startsWith('/') || entry.path.split('/').includes('..'))
      throw refuse(entry, `leads out of the ${kind.noun}`);
    if (entry.kind === 'special') throw refuse(entry, 'is a device or another special file');
    if (entry.kind === 'hardlink') throw refuse(entry, 'is a hard link');
    if (entry.kind === 'link' && (entry.target === undefined || leadsOut(entry.path, entry.target))) {
      throw refuse(entry, `is a link to ${entry.target}, outside the ${kind.noun}`);
    }
    bytes += entry.size;
    if (bytes > MAX_APPARENT_BYTES) throw refuse(entry, `is larger than any ${kind.noun}`);
  }
  const isManifest = ({ kind: type, path }: ArchiveEntry) =>
    type === 'file' && (path === kind.manifest || path.split('/').slice(1).join('/') === kind.manifest);
  const manifests = entries.filter(isManifest).map(({ path }) => path);
  const top = manifests.map((path) => path.slice(0, -kind.manifest.length).replace(/\/$/, '')).sort()[0];
  if (top !== undefined) return top;
  throw new BangerError('corrupt', `${file} holds no ${kind.manifest}.`, { hint });
}

/** Whether a link's target, read from where the link lies, is outside the tree it lies in. */
export function leadsOut(path: string, target: string): boolean {
  if (target.startsWith('/')) return true;
  const led = normalize(join(dirname(path), target));
  return led === '..' || led.startsWith('../');
}

/** A text in quotes as C writes it; what is no ASCII is there as octal bytes. */
function unquote(text: string): string {
  const bytes = text
    .slice(1, -1)
    .replace(/\\([0-7]{3}|.)/g, (_, code: string) =>
      code.length === 3 ? String.fromCharCode(Number.parseInt(code, 8)) : (ESCAPES.get(code) ?? code),
    );
  // tar writes bytes above ASCII as they are where the locale knows them
  return NOT_LATIN1.test(bytes) ? bytes : Buffer.from(bytes, 'latin1').toString('utf8');
}
