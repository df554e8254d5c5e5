/**
 * From layers to one tree, in two readings of each: the first checks digests and finds out what is where, the second passes on the
 * data of files that are still there at the end. Nothing is unpacked on the host.
 */
import { eachNode, type FileNode, piecesOf } from '../core/file-tree.ts';
import { turnsAfter } from '../system/turns.ts';
import { type LayerBlob, readLayer } from './layer-stream.ts';
import { LayerMerge } from './merge.ts';
import { type TarEntry, TarReader } from './tar-reader.ts';
import type { TreeLimits } from './tree-limits.ts';

export interface FlattenOptions {
  signal: AbortSignal;
  /** called with `bytes` of layers that were read, of twice as many as there are */
  onBytes?: (bytes: number) => void;
  limits: TreeLimits & {
    /** bytes of all layers, without compression */
    bytes: number;
  };
}

/** Takes the data of files as it comes; what is waited for is waited for. */
export type DataSink = (node: FileNode, offset: number, bytes: Buffer) => Promise<void> | undefined;

/** So many entries at once, then others have a turn. */
const ENTRIES_AT_ONCE = 2000;

/**
 * Reads all layers and lays them over each other.
 * @throws BangerError `corrupt` when a layer is another than its digests say, or holds what can have no place
 */
export async function mergeLayers(layers: readonly LayerBlob[], options: FlattenOptions): Promise<FileNode> {
  const merge = new LayerMerge(options.limits);
  const turn = turnsAfter(ENTRIES_AT_ONCE);
  let { bytes } = options.limits;
  for (const blob of layers) {
    merge.beginLayer();
    const read = { blob, verify: true, signal: options.signal, ...passedOn(options) };
    let before = 0;
    const reader = new TarReader(
      { entry: (entry) => merge.add(entry), data: () => undefined, end: () => undefined },
      { bytes },
    );
    await readLayer(read, async (chunk) => {
      bytes -= chunk.length;
      await reader.write(chunk);
      const pending = turn(reader.entries - before);
      before = reader.entries;
      if (pending) await pending;
    });
    reader.finish();
  }
  return merge.root;
}

/** Reads the layers once more and gives the data of what is in the tree to `sink`, in the order in which it is stored. */
export async function copyData(
  layers: readonly LayerBlob[],
  root: FileNode,
  sink: DataSink,
  options: FlattenOptions,
): Promise<void> {
  const wanted = layers.map(() => new Map<number, FileNode>());
  const turn = turnsAfter(ENTRIES_AT_ONCE, options.signal);
  for (const node of eachNode(root)) {
    if (node.source) wanted[node.source.layer]?.set(node.source.entry, node);
    const pending = turn();
    if (pending) await pending;
  }
  for (const [index, blob] of layers.entries()) {
    const files = wanted[index] as Map<number, FileNode>;
    // nothing of it is left
    if (files.size === 0) {
      options.onBytes?.(blob.size);
      continue;
    }
    const reader = new TarReader(dataHandler(files, sink), { bytes: Number.POSITIVE_INFINITY });
    const read = { blob, verify: false, signal: options.signal, ...passedOn(options) };
    await readLayer(read, async (chunk) => await reader.write(chunk));
  }
}

function passedOn({ onBytes }: FlattenOptions): { onBytes?: (bytes: number) => void } {
  return onBytes ? { onBytes } : {};
}

/** Stored data is without holes: it is put where the file has it. */
function dataHandler(files: ReadonlyMap<number, FileNode>, sink: DataSink) {
  let node: FileNode | undefined;
  let piece = 0;
  let done = 0;
  const rest = async (to: FileNode, bytes: Buffer): Promise<void> => {
    const pieces = piecesOf(to);
    for (let left = bytes; left.length > 0; ) {
      const here = pieces[piece];
      if (!here) return;
      const take = Math.min(left.length, here.length - done);
      const pending = sink(to, here.offset + done, left.subarray(0, take));
      if (pending) await pending;
      done += take;
      left = left.subarray(take);
      if (done < here.length) continue;
      piece += 1;
      done = 0;
    }
  };
  return {
    entry(entry: TarEntry) {
      node = files.get(entry.index);
      piece = 0;
      done = 0;
    },
    data(chunk: Buffer): Promise<void> | undefined {
      if (node === undefined) return undefined;
      if (node.pieces) return rest(node, chunk);
      const offset = done;
      done += chunk.length;
      return sink(node, offset, chunk);
    },
    end: () => undefined,
  };
}
