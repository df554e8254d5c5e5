/** Builds a runtime bundle from Debian packages, unless the one in place was made from the same. */
import { chmod, copyFile, mkdir, readdir, realpath, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { buildInitrd } from '../../bundle/boot/initrd.ts';
import { inspectKernel, kernelProblem } from '../../bundle/boot/kernel.ts';
import { extractVmlinux } from '../../bundle/boot/vmlinux.ts';
import { type Apt, downloadPackages, prepareApt, updateLists } from '../../bundle/debian/apt.ts';
import { buildRootfs, removeTree } from '../../bundle/debian/rootfs.ts';
import { findSuperuser, type Superuser } from '../../bundle/debian/superuser.ts';
import {
  claimWorkDir,
  putInPlace,
  releaseWorkDir,
  restoreReplaced,
  type WorkDir,
} from '../../bundle/debian/work-dir.ts';
import type { BundleProgress } from '../../bundle/progress.ts';
import { listTree, sumDisk, sumFile, sumTree } from '../../bundle/store/checksum.ts';
import {
  type Bundle,
  type BundleArch,
  type BundleManifest,
  MANIFEST_FILE,
  readBundle,
  STANDARD_DEFAULTS,
  writeManifest,
} from '../../bundle/store/manifest.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import {
  type BuildBundleDeps,
  type BuildBundleRequest,
  type BundlePlan,
  checkRequest,
  checkSpace,
  DEBIAN_ARCH,
  planBundle,
  requestDigest,
} from './plan.ts';

export type { BuildBundleDeps, BuildBundleRequest } from './plan.ts';

const ROOTFS = 'rootfs.ext4';

export interface BuildBundleResult {
  bundle: Bundle;
  /** false when the bundle in place was kept */
  built: boolean;
  /** why it was kept or built, as a sentence */
  reason: string;
}

/**
 * Builds the bundle `request.output`; the one in place stays until the new one is complete.
 * @throws BangerError `invalid_input` for a bad suite, package or size
 * @throws BangerError `host_unprepared` when a program or right is missing
 * @throws BangerError `conflict` when another build of the same bundle runs
 * @throws BangerError `command_failed` with the last words of the program that failed
 */
export async function buildBundle(
  deps: BuildBundleDeps,
  request: BuildBundleRequest,
  progress: BundleProgress = () => {},
  signal?: AbortSignal,
): Promise<BuildBundleResult> {
  await checkRequest(request);
  const output = await realOutput(request.output);
  await restoreReplaced(output);
  const found = await presentBundle(output);
  const present = request.force ? undefined : found;
  progress({ phase: 'resolve packages', detail: request.suite });
  const arch = request.arch ?? 'x86_64';
  const apt = await prepareApt(deps.runner, {
    suite: request.suite,
    arch: DEBIAN_ARCH[arch],
    dir: join(deps.cacheDir, 'apt', `${request.suite}-${arch}`),
    env: deps.env,
    ...(request.sourcesFile === undefined ? {} : { sourcesFile: request.sourcesFile }),
  });
  const asked = requestDigest(deps, request, arch);
  try {
    await updateLists(deps.runner, apt, signal);
  } catch (error) {
    if (!(error instanceof BangerError) || error.code !== 'command_failed') throw error;
    if (present?.manifest.inputs?.request !== asked) throw unreachable(error, request.suite);
    return {
      bundle: present,
      built: false,
      reason: 'The package archive cannot be reached; the bundle in place was kept.',
    };
  }
  const plan = await planBundle(deps, request, apt, arch, asked);
  if (present?.manifest.inputs?.key === plan.inputs.key) {
    return { bundle: present, built: false, reason: 'Nothing it is made from has changed.' };
  }
  const superuser = await findSuperuser(deps.runner, deps.uid);
  const remove = (paths: string[]) => removeTree({ runner: deps.runner, superuser }, paths);
  const dir = await claimWorkDir(workPath(output), remove);
  try {
    await checkSpace(dir.path);
    await buildInto(dir, {
      ...deps,
      env: withSbin(deps.env),
      apt,
      superuser,
      plan,
      progress,
      ...(signal ? { signal } : {}),
    });
    throwIfCancelled(signal);
    progress({ phase: 'put in place', detail: output });
    await putInPlace(dir.result, output, remove);
  } finally {
    await releaseWorkDir(dir.path, remove);
  }
  return { bundle: await readBundle(output), built: true, reason: whyBuilt(found, request) };
}

function whyBuilt(found: Bundle | undefined, request: BuildBundleRequest): string {
  if (!found) return 'There was no such bundle yet.';
  return request.force ? 'It was asked for.' : 'What it is made from has changed.';
}

/** The directory itself where the name is a link to it: a rename would replace the link. */
async function realOutput(output: string): Promise<string> {
  const path = resolve(output);
  return await realpath(path).catch(() => path);
}

interface Build extends BuildBundleDeps {
  apt: Apt;
  superuser: Superuser;
  plan: BundlePlan;
  progress: BundleProgress;
  signal?: AbortSignal;
}

async function buildInto(dir: WorkDir, build: Build): Promise<void> {
  const { plan, runner, progress, signal } = build;
  progress({ phase: 'download kernel', detail: plan.kernelPackage });
  await mkdir(join(dir.scratch, 'debs'));
  await downloadPackages(runner, build.apt, plan.downloads, join(dir.scratch, 'debs'), signal);
  const unpacked = join(dir.scratch, 'unpacked');
  await mkdir(unpacked);
  for (const name of await readdir(join(dir.scratch, 'debs'))) {
    if (!name.endsWith('.deb')) continue;
    const argv = ['dpkg-deb', '--extract', join(dir.scratch, 'debs', name), unpacked] as const;
    await runner.run(argv, signal ? { signal } : {});
  }

  progress({ phase: 'unpack kernel', detail: plan.kernelPackage });
  const release = await findRelease(unpacked);
  await placeKernel(build, unpacked, release, join(dir.result, 'vmlinux'), plan.arch);
  const modules = `modules/${release}`;
  await placeModules(build, unpacked, release, dir);

  progress({ phase: 'make initrd' });
  const busybox = await firstPresent(unpacked, ['bin/busybox', 'usr/bin/busybox']);
  const initrd = await buildInitrd(build, {
    busybox,
    modules: join(dir.result, modules),
    agent: build.agent,
  });
  await writeFile(join(dir.result, 'initrd.img'), initrd.image);

  await makeRoot(build, dir, join(dir.result, modules));
  const helpers = await placeHelpers(build, dir);
  await describe(build, dir, modules, helpers);
}

async function makeRoot(build: Build, dir: WorkDir, modules: string): Promise<void> {
  const { plan, progress, runner, superuser, apt, signal } = build;
  await buildRootfs(
    {
      runner,
      superuser,
      programs: build.programs,
      env: build.env,
      apt,
      progress,
      ...(signal ? { signal } : {}),
    },
    {
      suite: plan.suite,
      arch: DEBIAN_ARCH[plan.arch],
      packages: plan.packages,
      modules,
      sizeBytes: plan.sizeBytes,
      root: dir.root,
      scratch: dir.scratch,
      image: join(dir.result, ROOTFS),
      manifest: join(dir.result, 'rootfs.packages'),
    },
  );
}

async function describe(build: Build, dir: WorkDir, modules: string, helpers: string[]): Promise<void> {
  const { plan, progress, signal } = build;
  const paths = ['vmlinux', 'initrd.img', ROOTFS, 'rootfs.packages', ...helpers];
  const options = { ...(signal ? { signal } : {}), onBytes: await followSums(dir, paths, progress) };
  const files: BundleManifest['files'] = {};
  for (const path of paths) {
    const sum = path === ROOTFS ? sumDisk : sumFile;
    files[path] = await sum(join(dir.result, path), options);
  }
  await writeManifest(dir.result, {
    schema: 2,
    name: plan.name,
    arch: plan.arch,
    created: build.now().toISOString(),
    kernel: 'vmlinux',
    initrd: 'initrd.img',
    modules,
    rootfs: ROOTFS,
    packages: 'rootfs.packages',
    defaults: STANDARD_DEFAULTS,
    helpers,
    files,
    trees: { [modules]: await sumTree(join(dir.result, modules), options) },
    inputs: plan.inputs,
  });
}

/** An event for each further hundredth of the bytes, which are nearly all those of the root file system. */
async function followSums(dir: WorkDir, paths: string[], progress: BundleProgress): Promise<(bytes: number) => void> {
  let total = 0;
  for (const path of paths) total += (await stat(join(dir.result, path))).size;
  let done = 0;
  let shown = -1;
  return (bytes) => {
    done = Math.min(done + bytes, total);
    const hundredth = Math.floor((done * 100) / total);
    if (hundredth === shown) return;
    shown = hundredth;
    progress({ phase: 'compute checksums', done, total });
  };
}

async function placeKernel(
  build: Build,
  unpacked: string,
  release: string,
  target: string,
  arch: BundleArch,
): Promise<void> {
  const packed = await firstPresent(unpacked, [`boot/vmlinuz-${release}`, `usr/lib/modules/${release}/vmlinuz`]);
  const kind = (await inspectKernel(packed)).kind;
  if (kind === 'bzimage') await extractVmlinux(build, packed, target, build.signal);
  else await copyFile(packed, target);
  const problem = kernelProblem(await inspectKernel(target), arch);
  if (problem) throw new BangerError('corrupt', `The kernel ${release} ${problem}.`);
}

async function placeModules(build: Build, unpacked: string, release: string, dir: WorkDir): Promise<void> {
  const tree = await firstPresent(unpacked, [`lib/modules/${release}`, `usr/lib/modules/${release}`]);
  // they point to the kernel's build tree, which a bundle does not have
  for (const link of ['build', 'source']) await rm(join(tree, link), { force: true });
  await mkdir(join(dir.result, 'modules'));
  await rename(tree, join(dir.result, 'modules', release));
  // depmod looks in lib/modules below its base, in /usr/lib/modules where /lib is only a link
  const base = join(dir.scratch, 'depmod');
  await mkdir(join(base, 'usr/lib'), { recursive: true });
  await symlink('usr/lib', join(base, 'lib'));
  await symlink(join(dir.result, 'modules'), join(base, 'usr/lib/modules'));
  await build.runner.run(['depmod', '--basedir', base, release], {
    env: build.env,
    ...(build.signal ? { signal: build.signal } : {}),
  });
  // whatever our umask is: every user of a guest may look up a module
  for (const { path, kind } of await listTree(join(dir.result, 'modules'))) {
    if (kind === 'link') continue;
    await chmod(join(dir.result, 'modules', path), kind === 'directory' ? 0o755 : 0o644);
  }
}

async function placeHelpers(build: Build, dir: WorkDir): Promise<string[]> {
  const names = Object.keys(build.helpers).sort();
  if (names.length > 0) await mkdir(join(dir.result, 'helpers'));
  for (const name of names) {
    const path = join(dir.result, 'helpers', name);
    await writeFile(path, build.helpers[name] ?? '');
    await chmod(path, 0o755);
  }
  return names.map((name) => `helpers/${name}`);
}

/** mke2fs, depmod and what mmdebstrap calls lie where an ordinary user's PATH does not look. */
function withSbin(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return { ...env, PATH: [...(env.PATH ? [env.PATH] : []), '/usr/sbin', '/sbin'].join(':') };
}

/** Where a bundle is built: beside it, so that a rename puts it in place. */
function workPath(output: string): string {
  return join(dirname(output), `.${basename(output)}.building`);
}

/**
 * The bundle in place; undefined when there is none that can be used.
 * @throws BangerError `conflict` when something else is there, which a build would destroy
 */
async function presentBundle(output: string): Promise<Bundle | undefined> {
  const names = await readdir(output).catch((error: unknown) => {
    if (systemCode(error) === 'ENOENT') return [] as string[];
    throw new BangerError('conflict', `${output} cannot become a bundle (${systemCode(error)}).`, {
      cause: error,
      hint: `Name a directory that can be written to: ls -ld ${output}`,
    });
  });
  if (names.length > 0 && !names.includes(MANIFEST_FILE)) {
    throw new BangerError('conflict', `${output} holds files but no bundle, and would be replaced.`, {
      hint: 'Name a directory that does not exist yet: --output DIR',
    });
  }
  try {
    return await readBundle(output);
  } catch (error) {
    if (error instanceof BangerError && (error.code === 'not_found' || error.code === 'corrupt')) return undefined;
    throw error;
  }
}

function unreachable(cause: BangerError, suite: string): BangerError {
  return new BangerError('command_failed', `The package lists of ${suite} cannot be fetched: ${cause.message}`, {
    cause,
    hint: 'See whether the host itself can: sudo apt-get update',
  });
}

async function findRelease(unpacked: string): Promise<string> {
  for (const dir of ['lib/modules', 'usr/lib/modules']) {
    const [release] = await readdir(join(unpacked, dir)).catch(() => []);
    if (release !== undefined) return release;
  }
  throw new BangerError('corrupt', 'The kernel package holds no module tree.');
}

async function firstPresent(base: string, paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    const parent = await readdir(join(base, path, '..')).catch((): string[] => []);
    if (parent.includes(path.slice(path.lastIndexOf('/') + 1))) return join(base, path);
  }
  throw new BangerError('corrupt', `The packages hold none of: ${paths.join(', ')}.`);
}
