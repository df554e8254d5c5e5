/** What an image build is asked for: the recipe with what was laid over it, the base, and the steps with their keys. */
import { isUtf8 } from 'node:buffer';
import { readFile } from 'node:fs/promises';
import { basename, dirname, extname, resolve } from 'node:path';
import type { ImageBuild } from '../../api/image-build.ts';
import { openBundle } from '../../bundle/store/catalogue.ts';
import { type FileSum, sumFile } from '../../bundle/store/checksum.ts';
import type { Bundle } from '../../bundle/store/manifest.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import { baseKey, chainKeys, type KeyedStep, stepKey } from '../../image/layers.ts';
import { normalizedLines } from '../../image/normalized-lines.ts';
import {
  applySettings,
  checkRecipe,
  PACKAGE_NAME,
  type Recipe,
  type RecipeValues,
  readToml,
} from '../../image/recipe.ts';
import { outsideError, outsideNames, realSource } from '../../image/recipe-wall.ts';
import { readScript, type SnapshotOptions, snapshotFiles, snapshotTree } from '../../image/snapshot.ts';
import type { ArchiveItem } from '../../image/tar-stream.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { imageFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { pathExists } from '../../system/files.ts';
import { kernelArch } from '../../system/host-facts.ts';
import { VERITY_PREFIX, verityDigest } from '../../system/verity.ts';
import { formatSize, MIB, parseDuration, parseSize } from '../../units.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { diskReader } from '../handover.ts';
import type { Host } from '../host.ts';
import { builtOn, type OciRecord, readOciRecord } from '../images/oci-record.ts';
import { isOciBase, pulledAs, requirePulled, wholeOciBase } from './oci-base.ts';

export interface BuildBase {
  boot: BootFiles;
  /** id of the image; absent for a bundle */
  imageId?: string;
  /** how the base is called in records */
  name: string;
  arch: string;
  /** of the root file system: what images are known by, or an older bundle's SHA-256 */
  digest: string;
  /** of what the image boots with beside that */
  bootDigests: BootDigests;
  /** bundle that holds the kernel's modules, if one is there */
  bundle: Bundle | undefined;
  /** what runs in it, where it was an OCI image */
  oci: OciRecord | undefined;
}

/** Null for what is not there: whether it has to be is asked before a VM is booted. */
interface BootDigests {
  kernel: string | null;
  initrd: string | null;
}

/** A recipe made whole: nothing of it is looked up again. */
export interface BuildRequest {
  name: string;
  recipe: Recipe;
  /** where relative paths begin */
  directory: string;
  /** directory that all it reads must lie in; undefined when it may read any file */
  within: string | undefined;
  /** what it names outside of its directory, which was allowed */
  outside: string[];
  packages: string[];
  base: BuildBase;
  sizeBytes: number;
  memoryMib: number;
  runTimeoutMs: number;
}

export type BuildStep = KeyedStep & { label: string } & (
    | { kind: 'packages'; packages: string[] }
    | { kind: 'modules' | 'files' | 'seed'; items: ArchiveItem[]; release?: string }
    | { kind: 'run'; text: string | Buffer; script: boolean }
  );

export interface BuildPlan {
  steps: BuildStep[];
  /** key of the grown base */
  baseKey: string;
  /** keys after each step */
  keys: string[];
  /** key of the image */
  recipeKey: string;
}

/** Raised whenever cleaning would leave another image. */
const FINISH_VERSION = 1;

/**
 * Reads the recipe and finds its base.
 * @throws BangerError `invalid_input`, `not_found` or `corrupt`, naming the file and the field
 */
export async function resolveBuild(host: Host, request: ImageBuild): Promise<BuildRequest> {
  const { recipe, directory, name, ofRecipe } = await readRecipe(request);
  // what the command line itself says is its own
  const outside = request.recipe === undefined ? [] : await outsideNames(ofRecipe, directory);
  if (outside.length > 0 && !request.allowOutside) throw outsideError(outside, directory);
  const within = request.recipe === undefined || request.allowOutside ? undefined : directory;
  const listed = await Promise.all(
    recipe.package_files.map(
      async (file) => await readPackageFile(await ownFile(resolve(directory, file), file, within)),
    ),
  );
  const given = await Promise.all(
    (request.packageFiles ?? []).map(async (file) => await readPackageFile(resolve(request.directory, file))),
  );
  const base = await findBase(host, recipe.base);
  const { bytes, kind, name: fileSystem } = await readRootVolume(base.boot.rootfs);
  if (kind !== 'ext4') {
    throw new BangerError('conflict', `Images are built on ext4 file systems, and ${base.name} has ${fileSystem}.`, {
      hint: 'Make a VM of it, change that, and keep a snapshot: banger snapshot create VM',
    });
  }
  const sizeBytes = recipe.size === undefined ? bytes : parseSize(recipe.size);
  if (sizeBytes < bytes) {
    throw new BangerError(
      'invalid_input',
      `An image of ${formatSize(sizeBytes)} is smaller than its base ${base.name}, which has ${formatSize(bytes)}.`,
      { hint: `size = "${Math.ceil(bytes / MIB)}MiB" is the least.` },
    );
  }
  return {
    name,
    recipe,
    directory,
    within,
    outside,
    packages: [...new Set([...recipe.packages, ...listed.flat(), ...given.flat()])].sort(),
    base,
    sizeBytes: Math.ceil(sizeBytes / MIB) * MIB,
    memoryMib: parseSize(recipe.memory) / MIB,
    runTimeoutMs: parseDuration(recipe.run_timeout),
  };
}

/**
 * An OCI image that the recipe begins with and that is not here.
 * @returns undefined when there is nothing to pull
 * @throws BangerError as `resolveBuild` does
 */
export async function missingBase(
  host: Host,
  request: ImageBuild,
): Promise<{ name: string; reference: string } | undefined> {
  const { recipe, directory, name, ofRecipe } = await readRecipe(request);
  const { base } = recipe;
  if (base === undefined || !isOciBase(base) || host.stores.images.find(base)) return undefined;
  const outside = request.recipe === undefined || request.allowOutside ? [] : await outsideNames(ofRecipe, directory);
  if (outside.length > 0) throw outsideError(outside, directory);
  return (await pulledAs(host, base)) === undefined ? { name, reference: base } : undefined;
}

interface ReadRecipe {
  /** with what was laid over it */
  recipe: Recipe;
  /** the same without a base that the command line names */
  ofRecipe: Recipe;
  directory: string;
  name: string;
}

async function readRecipe(request: ImageBuild): Promise<ReadRecipe> {
  const path = request.recipe ?? 'the command line';
  const directory = request.recipe === undefined ? request.directory : dirname(request.recipe);
  const raw = request.recipe === undefined ? {} : readToml(await readGiven(request.recipe, 'recipe'), path);
  const read = checkRecipe(layOver(raw, request), path);
  const from = request.base === undefined ? directory : request.directory;
  const base = read.base !== undefined && isOciBase(read.base) ? wholeOciBase(read.base, from) : read.base;
  const recipe: Recipe = { ...read, ...(base === undefined ? {} : { base }) };
  const { base: _, ...rest } = recipe;
  const ofRecipe: Recipe = request.base === undefined ? recipe : rest;
  return { recipe, ofRecipe, directory, name: read.name ?? nameOfFile(request.recipe) };
}

/**
 * Takes every file the recipe names into `snapshotDir` and makes the steps of it.
 * @throws BangerError as `snapshotFiles` does
 */
export async function planSteps(request: BuildRequest, snapshotDir: string, signal?: AbortSignal): Promise<BuildPlan> {
  const { recipe, directory, within, packages } = request;
  const options = (target: string) => ({
    base: directory,
    within,
    target: resolve(snapshotDir, target),
    ...(signal ? { signal } : {}),
  });
  const steps: BuildStep[] = [];
  if (packages.length > 0) {
    const inputs = { packages, env: recipe.env };
    steps.push({ kind: 'packages', label: `packages ${packages.join(', ')}`, packages, inputs });
  }
  if (recipe.modules || recipe.extra_modules.length > 0) steps.push(await moduleStep(request, options('modules')));
  if (recipe.files.length > 0) {
    const { items, digest } = await snapshotFiles(recipe.files, options('files'));
    steps.push({ kind: 'files', label: 'files', items, inputs: digest });
  }
  for (const [index, line] of recipe.run.entries()) {
    const script = typeof line !== 'string';
    const text = script ? await readScript(line.script, directory, within) : line;
    const what = script ? line.script : (line.trim().split('\n')[0] ?? '');
    const label = `run ${index + 1}: ${what.length > 60 ? `${what.slice(0, 59)}…` : what}`;
    const content = typeof text === 'string' || isUtf8(text) ? text.toString() : text.toString('base64');
    const inputs = { text: content, script, env: recipe.env, user: recipe.user };
    steps.push({ kind: 'run', label, text, script, inputs });
  }
  if (recipe.work_disk_seed !== undefined) {
    const { items, digest } = await snapshotTree(recipe.work_disk_seed, '/root', options('seed'));
    steps.push({ kind: 'seed', label: 'work disk seed', items, inputs: digest });
  }
  const base = baseKey(request.base.digest, request.sizeBytes);
  const keys = chainKeys(base, steps);
  const finish = { kind: 'finish', inputs: finishInputs(request) };
  return { steps, baseKey: base, keys, recipeKey: stepKey(keys.at(-1) ?? base, finish) };
}

/** What the image consists of beside its root: no step depends on it, so that what it leaves is of use when only this has changed. */
function finishInputs({ recipe, base: { bootDigests, oci } }: BuildRequest): unknown {
  return {
    version: FINISH_VERSION,
    keepCaches: recipe.keep_caches,
    ...bootDigests,
    oci: oci === undefined ? null : builtOn(oci),
  };
}

async function moduleStep({ recipe, base }: BuildRequest, options: SnapshotOptions): Promise<BuildStep> {
  const tree = base.bundle?.modules;
  if (tree === undefined) {
    throw new BangerError('invalid_input', `The base ${base.name} has no tree of kernel modules beside it.`, {
      hint: 'Begin with a bundle, or leave modules and extra_modules out: the root of a bundle holds its modules already.',
    });
  }
  const release = basename(tree);
  const place = `/lib/modules/${release}`;
  const entry = { owner: 'root:root', target: place };
  const whole = recipe.modules
    ? await snapshotFiles([{ ...entry, source: tree }], { ...options, within: undefined })
    : undefined;
  const extra = await snapshotFiles(
    recipe.extra_modules.map((source) => ({ ...entry, source, target: `${place}/extra/`, mode: '0644' })),
    { ...options, target: `${options.target}-extra` },
  );
  return {
    kind: 'modules',
    label: `modules ${release}`,
    release,
    items: [...(whole?.items ?? []), ...extra.items],
    inputs: { release, tree: whole?.digest ?? null, extra: extra.digest },
  };
}

function layOver(raw: RecipeValues, request: ImageBuild): RecipeValues {
  const list = (value: unknown) => (Array.isArray(value) ? value : value === undefined ? [] : [value]);
  const added: RecipeValues = {
    ...raw,
    ...(request.name === undefined ? {} : { name: request.name }),
    ...(request.base === undefined ? {} : { base: request.base }),
    ...(request.sizeBytes === undefined ? {} : { size: `${request.sizeBytes}B` }),
    ...(request.packages ? { packages: [...list(raw.packages), ...request.packages] } : {}),
    ...(request.run ? { run: [...list(raw.run), ...request.run] } : {}),
  };
  return applySettings(added, request.settings ?? []);
}

function nameOfFile(recipe: string | undefined): string {
  const name = recipe === undefined ? '' : basename(recipe, extname(recipe)).toLowerCase();
  if (/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name)) return name;
  throw new BangerError('invalid_input', 'The image has no name.', { hint: 'Give it one: --name dev' });
}

/** A missing file is told of by whoever reads it. */
async function ownFile(path: string, named: string, within: string | undefined): Promise<string> {
  return (await pathExists(path)) ? await realSource(path, named, within) : path;
}

async function readPackageFile(path: string): Promise<string[]> {
  const names = normalizedLines(await readGiven(path, 'list of packages'));
  const wrong = names.find((name) => !PACKAGE_NAME.test(name));
  if (wrong === undefined) return names;
  throw new BangerError('invalid_input', `${path}: "${wrong}" is no package name.`, {
    hint: 'One package a line: NAME or NAME=VERSION; # begins a comment.',
  });
}

async function readGiven(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') {
      throw new BangerError('not_found', `There is no ${what} ${path}.`, { hint: `ls -l ${dirname(path)}` });
    }
    throw new BangerError('invalid_input', `The ${what} ${path} cannot be read: ${messageOf(error)}.`, {
      cause: error,
    });
  }
}

/** An image first, then an OCI image, then a bundle: images are what people named themselves. */
async function findBase(host: Host, named: string | undefined): Promise<BuildBase> {
  const isOci = named !== undefined && !host.stores.images.find(named) && isOciBase(named);
  const name = isOci ? await requirePulled(host, named) : named;
  const image = name === undefined ? undefined : host.stores.images.find(name);
  const base: BuildBase = image
    ? { ...(await imageBase(host, image.name)), imageId: image.id }
    : await bundleBase(host, name);
  const arch = kernelArch(process.arch);
  if (base.arch !== arch) {
    throw new BangerError('invalid_input', `The base ${base.name} is for ${base.arch}; this machine runs ${arch}.`, {
      hint: 'See what there is: banger bundle list',
    });
  }
  // an image that was an OCI image brings one in its initrd
  if (base.oci === undefined) await requireSshServer(host, base);
  return base;
}

async function imageBase(host: Host, name: string): Promise<BuildBase> {
  const image = host.stores.images.get(name);
  const { kernel, initrd, rootfs, oci } = imageFiles(host.config.paths.store, image.id);
  const bundle = await openBundle(host.config.paths.bundles, rootBundle(host, image.base)).catch(() => undefined);
  const boot = { name, imageId: image.id, kernel, initrd, rootfs, defaults: {} };
  const bootDigests = await bootDigestsOf(boot);
  // without its prefix an older image's digest makes the keys it always made, so its layers stay of use
  const digest = image.digest.replace(/^sha256:/, '');
  return { boot, name, arch: image.arch, digest, bootDigests, bundle, oci: await readOciRecord(oci) };
}

/** The bundle at the end of a chain of images, as far as it is known. */
function rootBundle(host: Host, name: string): string {
  const seen = new Set<string>();
  let base = name;
  for (let image = host.stores.images.find(base); image && !seen.has(base); image = host.stores.images.find(base)) {
    seen.add(base);
    base = image.base;
  }
  return base;
}

async function bundleBase(host: Host, name: string | undefined): Promise<BuildBase> {
  const boot = await findBootFiles(host, name);
  const bundle = await openBundle(host.config.paths.bundles, name ?? host.config.bundle.default);
  const sum = bundle.manifest.files[bundle.manifest.rootfs];
  const digest = boot.rootfs === bundle.rootfs && sum ? digestOf(sum) : await verityDigest(boot.rootfs);
  const bootDigests = await bootDigestsOf(boot, bundle);
  return { boot, name: boot.name, arch: bundle.manifest.arch, digest, bootDigests, bundle, oci: undefined };
}

/**
 * Reading a kernel takes some hundredths of a second.
 * @param bundle one whose manifest may have them already
 */
async function bootDigestsOf({ kernel, initrd }: BootFiles, bundle?: Bundle): Promise<BootDigests> {
  const known = new Map<string, FileSum | undefined>();
  if (bundle) {
    const { manifest } = bundle;
    known.set(bundle.kernel, manifest.files[manifest.kernel]).set(bundle.initrd, manifest.files[manifest.initrd]);
  }
  const digest = async (path: string | undefined) => {
    if (path === undefined || !(await pathExists(path))) return null;
    return digestOf(known.get(path) ?? (await sumFile(path)));
  };
  return { kernel: await digest(kernel), initrd: await digest(initrd) };
}

/** As images have it; the plain sum of an older bundle makes the keys it always made, so its layers stay of use. */
function digestOf(sum: FileSum): string {
  return 'sha256' in sum ? sum.sha256 : `${VERITY_PREFIX}${sum.fsverity}`;
}

/** Said before anything is booted: a guest without an SSH server would only be noticed by its silence. */
async function requireSshServer(host: Host, { boot, name }: BuildBase): Promise<void> {
  const { stdout } = await diskReader(host).run(
    [host.config.programs.debugfs, '-R', 'stat /usr/sbin/sshd', boot.rootfs],
    {
      okExits: [0, 1],
    },
  );
  if (/^Inode: /m.test(stdout)) return;
  throw new BangerError(
    'invalid_input',
    `The base ${name} has no SSH server (/usr/sbin/sshd), and is built over SSH.`,
    {
      hint: 'Take a base that has one: banger bundle list',
    },
  );
}
