/** A kernel's modules: which ones something needs, in the order they load, and their uncompressed bytes. */
import { createReadStream } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';
import { detectCompression, type UnpackDeps, unpack } from './unpack.ts';

/** One loadable module of a tree. */
export interface KernelModule {
  /** name as the kernel shows it, with `_` for `-` */
  name: string;
  /** path below the tree, e.g. `kernel/drivers/net/virtio_net.ko.xz` */
  path: string;
}

/** What `depmod` wrote about a tree. */
export interface ModuleIndex {
  /** modules by name, each with the modules it depends on in the order they must load */
  loadable: Map<string, { module: KernelModule; needs: KernelModule[] }>;
  /** names of modules that are part of the kernel */
  builtin: Set<string>;
  /** names to load before a module although nothing links to them */
  softPre: Map<string, string[]>;
}

/** Modules are some KiB to a few MiB; nothing larger belongs in an initrd. */
const MAX_MODULE_BYTES = 64 * 1024 * 1024;

/**
 * Reads modules.dep, modules.builtin and modules.softdep of a tree.
 * @throws BangerError `corrupt` when the tree was never given to depmod
 */
export async function readModuleIndex(tree: string): Promise<ModuleIndex> {
  const dep = await readIndexFile(tree, 'modules.dep');
  if (dep === undefined) {
    throw new BangerError('corrupt', `The module tree ${tree} has no modules.dep.`, {
      hint: `Make it: depmod -b DIRECTORY_ABOVE_lib ${basename(tree)}`,
    });
  }
  const loadable: ModuleIndex['loadable'] = new Map();
  for (const line of dep.split('\n')) {
    const colon = line.indexOf(':');
    if (colon < 0) continue;
    const module = moduleAt(line.slice(0, colon));
    // modules.dep names the nearest dependency first; they load from the last to the first
    const needs = words(line.slice(colon + 1))
      .reverse()
      .map(moduleAt);
    loadable.set(module.name, { module, needs });
  }
  const builtin = new Set(
    words((await readIndexFile(tree, 'modules.builtin')) ?? '').map((path) => moduleAt(path).name),
  );
  return { loadable, builtin, softPre: parseSoftPre((await readIndexFile(tree, 'modules.softdep')) ?? '') };
}

/**
 * The modules to load for `wanted`, dependencies first, each once; what is built in is left out.
 * @returns names in `missing` that are neither loadable nor built in
 */
export function loadOrder(index: ModuleIndex, wanted: readonly string[]): { order: KernelModule[]; missing: string[] } {
  const order = new Map<string, KernelModule>();
  const missing: string[] = [];
  const visiting = new Set<string>();
  const visit = (name: string, soft: boolean) => {
    if (order.has(name) || index.builtin.has(name) || visiting.has(name)) return;
    const entry = index.loadable.get(name);
    if (!entry) {
      // a soft dependency may be an alias or absent; the module loads without it
      if (!soft) missing.push(name);
      return;
    }
    visiting.add(name);
    for (const before of index.softPre.get(name) ?? []) visit(before, true);
    for (const need of entry.needs) visit(need.name, false);
    visiting.delete(name);
    order.set(name, entry.module);
  };
  for (const name of wanted) visit(moduleName(name), false);
  return { order: [...order.values()], missing };
}

/**
 * A module's bytes, decompressed when it is stored as .ko.gz, .ko.xz or .ko.zst.
 * @throws BangerError `corrupt` when it is damaged
 */
export async function readModule(deps: UnpackDeps, tree: string, module: KernelModule): Promise<Buffer> {
  const path = join(tree, module.path);
  const start = await readStart(path);
  const compression = detectCompression(start);
  if (compression === undefined) throw new BangerError('corrupt', `The kernel module ${path} is no ELF file.`);
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of unpack(createReadStream(path), compression, deps)) {
    size += chunk.length;
    if (size > MAX_MODULE_BYTES) throw new BangerError('corrupt', `The kernel module ${path} unpacks to too much.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

/** A module's name in the kernel's spelling. */
function moduleName(name: string): string {
  return name.replaceAll('-', '_');
}

function moduleAt(path: string): KernelModule {
  return { name: moduleName(basename(path).replace(/\.ko(\.\w+)?$/, '')), path };
}

/** Lines such as `softdep ext4 pre: crc32c post: foo`. */
function parseSoftPre(text: string): Map<string, string[]> {
  const softPre = new Map<string, string[]>();
  for (const line of text.split('\n')) {
    const [keyword, name, ...rest] = words(line);
    const from = rest.indexOf('pre:');
    if (keyword !== 'softdep' || name === undefined || from < 0) continue;
    const post = rest.indexOf('post:', from);
    const pre = rest.slice(from + 1, post < 0 ? undefined : post);
    if (pre.length > 0) softPre.set(moduleName(name), pre.map(moduleName));
  }
  return softPre;
}

async function readStart(path: string): Promise<Buffer> {
  await using file = await open(path);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(8), 0, 8, 0);
  return buffer.subarray(0, bytesRead);
}

async function readIndexFile(tree: string, name: string): Promise<string | undefined> {
  try {
    return await readFile(join(tree, name), 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function words(text: string): string[] {
  return text.split(/\s+/).filter((word) => word !== '');
}
