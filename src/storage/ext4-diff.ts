/** What two states of one ext4 file system differ in, by names. */
import { BangerError } from '../errors.ts';
import type { Ext4Tree, NodeKind, TreeNode } from './ext4-tree.ts';

export interface TreeChange {
  /** in the file system, with a leading slash; a character for each byte */
  path: string;
  change: 'added' | 'removed' | 'changed';
  kind: NodeKind;
}

export interface TreeDiff {
  /** by path */
  changes: TreeChange[];
  /** how many more there are */
  omitted: number;
}

/** Linux takes paths of 4096 bytes; what lies deeper is counted and not gone into. */
const MAX_PATH_BYTES = 4096;

/** Names of a directory and of all it lies in, of both sides: what is held at a time. */
const MAX_HELD = 600_000;

/**
 * @param max how many changes are listed
 * @throws BangerError `corrupt` as the trees do, and the reason of `signal`
 */
export async function diffTrees(
  before: Ext4Tree,
  after: Ext4Tree,
  max: number,
  signal: AbortSignal,
): Promise<TreeDiff> {
  const changes: TreeChange[] = [];
  let omitted = 0;
  let held = 0;
  const tell = (path: string, change: TreeChange['change'], { kind }: TreeNode) => {
    if (changes.length < max && path.length <= MAX_PATH_BYTES) changes.push({ path, change, kind });
    else omitted += 1;
  };

  /** Of a directory that one side has not, everything is told. */
  const compare = async (path: string, old: TreeNode | undefined, now: TreeNode | undefined) => {
    signal.throwIfAborted();
    if (path.length > MAX_PATH_BYTES) return;
    const [left, right] = [
      old?.kind === 'directory' ? await before.entries(old) : new Map<string, TreeNode>(),
      now?.kind === 'directory' ? await after.entries(now) : new Map<string, TreeNode>(),
    ];
    const count = left.size + right.size;
    held += count;
    if (held > MAX_HELD) {
      throw new BangerError('corrupt', `More names than are compared lie in and above one directory: ${held}.`, {
        hint: 'Look for it in the VM: find / -xdev -type d -size +4M',
      });
    }
    for (const name of [...new Set([...left.keys(), ...right.keys()])].sort()) {
      const [a, b] = [left.get(name), right.get(name)];
      const child = `${path}/${name}`;
      if (a && b && a.kind === b.kind) {
        if (a.mark !== b.mark) tell(child, 'changed', b);
      } else {
        if (a) tell(child, 'removed', a);
        if (b) tell(child, 'added', b);
      }
      const inA = a?.kind === 'directory' ? a : undefined;
      const inB = b?.kind === 'directory' ? b : undefined;
      if (inA || inB) await compare(child, inA, inB);
    }
    held -= count;
  };
  await compare('', before.root, after.root);
  return { changes, omitted };
}
