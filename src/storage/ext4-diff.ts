/** What two states of one ext4 file system differ in, by names. */
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

/** Deeper than any path that can be used; Linux takes paths of 4096 bytes. */
const MAX_DEPTH = 2048;

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
  const tell = (path: string, change: TreeChange['change'], { kind }: TreeNode) => {
    if (changes.length < max) changes.push({ path, change, kind });
    else omitted += 1;
  };

  /** Of a directory that one side has not, everything is told. */
  const compare = async (path: string, old: TreeNode | undefined, now: TreeNode | undefined, depth: number) => {
    signal.throwIfAborted();
    if (depth > MAX_DEPTH) return;
    const [left, right] = [
      old?.kind === 'directory' ? await before.entries(old) : new Map<string, TreeNode>(),
      now?.kind === 'directory' ? await after.entries(now) : new Map<string, TreeNode>(),
    ];
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
      if (inA || inB) await compare(child, inA, inB, depth + 1);
    }
  };
  await compare('', before.root, after.root, 0);
  return { changes, omitted };
}
