/** Which of a disk's partitions is the root of the system on it. */

export interface RootCandidate {
  number: number;
  /** in `bytes` */
  length: number;
  /** GUID of a GPT in lower case, or two hexadecimal digits of an MBR */
  type: string;
  name: string;
  volume: { kind: string; label: string };
}

export type RootChoice<P extends RootCandidate> =
  | { found: P }
  /** those that it may be, which are none or several */
  | { among: P[] };

/** Of the Discoverable Partitions Specification (UAPI group). */
const ROOT_TYPES: Readonly<Record<string, string>> = {
  x86_64: '4f68bce3-e8cd-4db1-96e7-fbcaf984b709',
  aarch64: 'b921b045-1df0-41c3-af44-4c6f280d3fae',
};
const OTHER_TYPES = [
  'bc13c2ff-59e6-4262-a352-b275fd6f7172', // extended boot loader
  '933ac7e1-2eb4-4f13-b844-0e14e2aef915', // /home
  '3b8f8425-20e0-4f3b-907f-1a25a76f98e8', // /srv
  '4d21b016-b534-45c2-a9fb-5c16e091fd2d', // /var
  '7ec6f557-3bc5-4aca-b293-16ef5df639d1', // /var/tmp
];
/** The boot partitions of distributions are small, home directories are called so. */
const OTHER_NAMES = /^(boot|home|srv|var|data)$/i;
/** One that is so much larger than the others is meant. */
const MUCH_LARGER = 4;

/** By its type if the table has one for roots, then by what the others are called, then by size. */
export function chooseRoot<P extends RootCandidate>(partitions: readonly P[], arch: string): RootChoice<P> {
  const bootable = partitions.filter(({ volume }) => volume.kind !== 'other');
  const [typed, ...more] = bootable.filter(({ type }) => type === ROOT_TYPES[arch]);
  if (typed && more.length === 0) return { found: typed };
  const likely = bootable.filter(
    ({ type, name, volume }) =>
      !OTHER_TYPES.includes(type) && !OTHER_NAMES.test(name) && !OTHER_NAMES.test(volume.label),
  );
  const among = (likely.length === 0 ? bootable : likely).toSorted((a, b) => b.length - a.length);
  const [first, second] = among;
  if (first && (!second || first.length >= second.length * MUCH_LARGER)) return { found: first };
  return { among };
}
