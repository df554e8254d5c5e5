/** Whether a bundle is what its bundle.json says and can boot on this machine: every answer, not only the first bad one. */
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { leadsOut } from '../../system/archive-entries.ts';
import { formatSize } from '../../units.ts';
import { looksLikeInitrd } from '../boot/initrd-file.ts';
import { inspectKernel, type KernelArch, kernelProblem } from '../boot/kernel.ts';
import { inspectRootfs, rootfsProblem } from '../debian/rootfs-image.ts';
import { listTree, type SumOptions, sumProblem, sumTree } from './checksum.ts';
import { loadBundle } from './legacy-layout.ts';
import { type Bundle, MANIFEST_FILE } from './manifest.ts';

export interface BundleCheck {
  /** field of bundle.json it is about, e.g. `kernel` or `files.vmlinux` */
  field: string;
  ok: boolean;
  /** what was found, as a sentence */
  detail: string;
}

export interface BundleVerdict {
  bundle: Bundle;
  ok: boolean;
  checks: BundleCheck[];
}

export interface VerifyOptions extends SumOptions {
  /** architecture of this machine */
  arch: KernelArch;
}

/**
 * Checks a bundle's sums and whether its kernel can boot here.
 * @throws BangerError `not_found` or `corrupt` when there is no bundle or its bundle.json cannot be used at all
 */
export async function verifyBundle(dir: string, options: VerifyOptions): Promise<BundleVerdict> {
  const bundle = await loadBundle(dir);
  const checks: BundleCheck[] = [
    archCheck(bundle, options.arch),
    await kernelCheck(bundle, options.arch),
    await initrdCheck(bundle.initrd),
    await rootfsCheck(bundle.rootfs),
    ...(await sumChecks(bundle, options)),
  ];
  return { bundle, ok: checks.every((check) => check.ok), checks };
}

function archCheck({ manifest }: Bundle, arch: KernelArch): BundleCheck {
  const ok = manifest.arch === arch;
  return {
    field: 'arch',
    ok,
    detail: ok ? `For ${arch}, as this machine.` : `For ${manifest.arch}; this machine is ${arch}.`,
  };
}

async function kernelCheck({ kernel, manifest }: Bundle, arch: KernelArch): Promise<BundleCheck> {
  const inspected = await inspectKernel(kernel);
  // a bundle for another machine has one fault, not two
  const problem = kernelProblem(inspected, manifest.arch === arch ? arch : manifest.arch);
  const detail = problem
    ? `The kernel ${kernel} ${problem}.`
    : `Kernel for ${manifest.arch}, ${formatSize(inspected.sizeBytes)}.`;
  return { field: 'kernel', ok: problem === undefined, detail };
}

async function initrdCheck(path: string): Promise<BundleCheck> {
  const ok = await looksLikeInitrd(path);
  return { field: 'initrd', ok, detail: ok ? 'An archive the kernel unpacks.' : `${path} is no cpio archive.` };
}

async function rootfsCheck(path: string): Promise<BundleCheck> {
  const inspected = await inspectRootfs(path);
  const problem = rootfsProblem(inspected);
  const detail = problem ? `The root file system ${path} ${problem}.` : `ext4, ${formatSize(inspected.sizeBytes)}.`;
  return { field: 'rootfs', ok: problem === undefined, detail };
}

async function sumChecks(bundle: Bundle, options: SumOptions): Promise<BundleCheck[]> {
  if (bundle.legacy)
    return [{ field: 'files', ok: true, detail: `No checksums to compare. ${bundle.notice ?? ''}`.trim() }];
  const checks: BundleCheck[] = [];
  for (const [path, wanted] of Object.entries(bundle.manifest.files)) {
    const problem = await sumProblem(join(bundle.dir, path), wanted, MANIFEST_FILE, options);
    checks.push(compared(`files.${path}`, problem));
  }
  for (const [path, wanted] of Object.entries(bundle.manifest.trees)) {
    const stray = await strayEntry(join(bundle.dir, path));
    const { sha256 } = await sumTree(join(bundle.dir, path), options);
    const same = sha256 === wanted.sha256;
    checks.push(
      stray === undefined
        ? compared(`trees.${path}`, same ? undefined : `checksum is ${sha256}, ${MANIFEST_FILE} says ${wanted.sha256}`)
        : {
            field: `trees.${path}`,
            ok: false,
            detail: `${stray} leads out of the tree or is no file, directory or link.`,
          },
    );
  }
  return checks;
}

function compared(field: string, problem: string | undefined): BundleCheck {
  const ok = problem === undefined;
  return { field, ok, detail: ok ? 'The checksum is right.' : `The ${problem}.` };
}

/** The first entry of a tree that is a device or a link out of it. */
async function strayEntry(tree: string): Promise<string | undefined> {
  for (const { path, kind } of await listTree(tree)) {
    if (kind === 'special') return path;
    if (kind === 'link' && leadsOut(path, await readlink(join(tree, path)))) return path;
  }
  return undefined;
}
