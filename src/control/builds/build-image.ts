/** Builds an image in a temporary VM: from the last step that has a layer, through the others, to a registered image. */
import { randomBytes } from 'node:crypto';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImageBuild, ImageBuilt, RecipeCheck } from '../../api/image-build.ts';
import type { VmRecord } from '../../core/vm.ts';
import { asBangerError, BangerError, messageOf } from '../../errors.ts';
import type { SshConnection } from '../../guest/ssh.ts';
import { wakeScript } from '../../guest/wake.ts';
import { requireSpace } from '../../storage/clone.ts';
import { vmFiles } from '../../storage/layout.ts';
import { sideBySide } from '../../system/abort.ts';
import type { Distribution } from '../../system/os-release.ts';
import { commandLine } from '../../system/runner.ts';
import { formatSize, MIB } from '../../units.ts';
import { diskReader } from '../handover.ts';
import type { Host } from '../host.ts';
import { holdImage, requireImage } from '../images/hold.ts';
import type { Progress } from '../operations.ts';
import { costOfClone, isFull } from '../store/space.ts';
import { awaitInit } from '../vm/boot.ts';

import { admitBuildVm, bootBuildVm, discardBuildVm } from './build-vm.ts';
import { type BuildTarget, finishImage } from './finish.ts';
import { type DebPlan, planDebs } from './host-packages.ts';
import { forgetKeptVm, reviveKeptVm } from './kept-vm.ts';
import {
  cachedSteps,
  keepLayer,
  keyAfter,
  needsDiskAtRest,
  placeRootDisk,
  stepsBeforeLast,
  storeShares,
} from './layers.ts';
import { type BuildPlan, type BuildRequest, planSteps, resolveBuild } from './plan.ts';
import { performStep, prepareGuest, type StepContext } from './steps.ts';

export interface BuildOptions {
  /** does every step again */
  noCache: boolean;
  /** id of the image that its own may replace: the one that had the name when it was asked for */
  replaces: string | undefined;
  /** leaves the VM when a step fails */
  keep: boolean;
  /** called with a VM that was left, which is an ordinary one from then on */
  onKept(vm: VmRecord): void;
  /** command that builds the same again, for hints; none when it was not made from a file */
  again: string | undefined;
}

type Timings = ImageBuilt['steps'];

/** What a build writes at least beside the copy of its base. */
const BUILD_NEEDS_BYTES = 256 * MIB;

/** A lean boot takes an emulated guest some seconds. */
const INIT_LIMIT_MS = 120_000;

/** A guest whose host disk is full stops in the middle of a write and never says why, so the host looks itself. */
const SPACE_CHECK_MS = 2000;
const SPACE_LEFT_BYTES = 32 * MIB;

/** Checks a recipe and everything it names; leaves nothing. */
export async function validateRecipe(host: Host, body: ImageBuild): Promise<RecipeCheck> {
  const request = await resolveBuild(host, body);
  const vm = await admitBuildVm(host, vmRequest(request));
  try {
    const plan = await planSteps(request, snapshotDirectory(host, vm));
    const done = await cachedSteps(host, plan);
    const steps = plan.steps.map(({ label }, index) => ({ step: label, cached: index < done }));
    return { name: request.name, base: request.base.name, outside: request.outside, steps };
  } finally {
    await discardBuildVm(host, vm);
  }
}

/**
 * @throws BangerError what the step that failed says; nothing of the build is left but layers
 * @throws BangerError `not_found` when its base was deleted or replaced since the request was resolved
 */
export async function buildImage(
  host: Host,
  request: BuildRequest,
  options: BuildOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImageBuilt> {
  // its kernel and initrd are those of the image, which comes at the very end
  await using _hold = holdImage(host, request.base, `the build of ${request.name}`);
  progress.step('plan', 'reading what the recipe names');
  const fresh = await admitBuildVm(host, vmRequest(request));
  let vm = fresh;
  let goesOnFrom: string | undefined;
  const full = new AbortController();
  const either = AbortSignal.any([signal, full.signal]);
  const timer = setInterval(() => void watchSpace(host, fresh, full), SPACE_CHECK_MS);
  try {
    const plan = await planSteps(request, snapshotDirectory(host, fresh), either);
    const present = options.noCache ? undefined : presentImage(host, request, plan);
    if (present) return present;
    const done = options.noCache ? 0 : await cachedSteps(host, plan);
    progress.step('preflight', 'checking the host');
    const { boot } = request.base;
    await host.checks.beforeImageBuild(boot, fresh, await costOfClone(host, boot.rootfs), progress.warn);
    const { directory } = vmFiles(host.config.paths.store, fresh.id);
    await requireSpace(directory, BUILD_NEEDS_BYTES, `building ${request.name}`);
    const began = performance.now();
    const goesOn = options.noCache ? undefined : await goOn(host, fresh, request, plan, done, progress, either);
    vm = goesOn?.vm ?? fresh;
    if (goesOn) goesOnFrom = keyAfter(plan, done);
    const begun = goesOn ?? (await bootFresh(host, fresh, request, plan, done, progress, either));
    return await buildInVm(
      host,
      request,
      plan,
      { ...options, ...begun, target: { id: fresh.id, replaces: options.replaces }, done, began },
      progress,
      either,
    );
  } catch (error) {
    // what was called off, or ran into a full disk, fails everywhere at once: the reason comes first
    await watchSpace(host, fresh, full, isFull(error));
    const unusable = asBangerError(error).details?.wake === false;
    if (goesOnFrom !== undefined && unusable) await forgetKeptVm(host, goesOnFrom);
    const cause = either.aborted && either.reason instanceof Error ? either.reason : error;
    if (!options.keep || unusable || either.aborted || host.guests.peek(vm) === undefined) throw cause;
    if (!keepVm(host, vm, request, progress)) throw cause;
    options.onKept(vm);
    throw withKeptVm(cause, vm, options.again);
  } finally {
    clearInterval(timer);
    for (const each of new Set([vm, fresh])) {
      if (host.stores.vms.findById(each.id)) host.stores.buildVms.forget(each.id);
      else await discardBuildVm(host, each);
    }
  }
}

/** A guest that can be given steps. */
interface BegunBuild {
  vm: VmRecord;
  connection: SshConnection;
  distribution: Distribution;
  /** packages the host has resolved for the first step */
  debs: DebPlan | undefined;
  /** how the guest was had, for the list of what took how long */
  how: 'boot' | 'revive';
}

/** Goes on in the machine that was kept after the steps that are done, if there is one. */
async function goOn(
  host: Host,
  fresh: VmRecord,
  request: BuildRequest,
  plan: BuildPlan,
  done: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<BegunBuild | undefined> {
  const key = keyAfter(plan, done);
  if (needsDiskAtRest(plan, done) || !host.stores.layers.find(key)?.machine) return undefined;
  progress.step('revive', `going on after: ${plan.steps[done - 1]?.label ?? `the boot of ${request.base.name}`}`);
  const revived = await reviveKeptVm(host, key, request.base.boot, fresh, signal);
  return revived && { ...revived, debs: undefined, how: 'revive' };
}

/** Boots a new VM from the disk after the steps that are done. */
async function bootFresh(
  host: Host,
  vm: VmRecord,
  request: BuildRequest,
  plan: BuildPlan,
  done: number,
  progress: Progress,
  signal: AbortSignal,
): Promise<BegunBuild> {
  progress.step('clone', done > 0 ? `beginning after: ${plan.steps[done - 1]?.label}` : `copying ${request.base.name}`);
  await placeRootDisk(host, vm, request, plan, done, signal);
  progress.step('boot', 'booting the temporary VM');
  const { connection, debs } = await bootAndResolve(host, vm, request, done === 0 ? plan : undefined, signal);
  const distribution = await prepareGuest(connection, request.name, signal);
  return { vm, connection, distribution, debs, how: 'boot' };
}

/** Does the steps that are left and makes an image of the disk. */
async function buildInVm(
  host: Host,
  request: BuildRequest,
  plan: BuildPlan,
  build: BegunBuild & { target: BuildTarget; done: number; began: number; noCache: boolean },
  progress: Progress,
  signal: AbortSignal,
): Promise<ImageBuilt> {
  const { vm, connection, distribution, debs, done } = build;
  const { directory, seedDrive } = vmFiles(host.config.paths.store, vm.id);
  const timings: Timings = [];
  for (const { label } of plan.steps.slice(0, done)) timings.push({ step: label, cached: true, durationMs: 0 });
  let { began } = build;
  const lap = (step: string) => {
    const now = performance.now();
    timings.push({ step, cached: false, durationMs: Math.round(now - began) });
    began = now;
  };
  lap(build.how);

  const shares = await storeShares(directory, seedDrive);
  const before = build.how === 'revive' ? [wakeScript(host.now(), randomBytes(32))] : [];
  let init: Promise<boolean> | undefined;
  const initUp = async () => {
    if (build.how !== 'boot' || init !== undefined) return void (await init);
    init = awaitInit(host, vm.id, INIT_LIMIT_MS, signal);
    if (!(await init))
      progress.warn('The init of the temporary VM does not say that it is up; run lines go on without it.');
  };
  const context: StepContext = { request, connection, distribution, debs, progress, signal, initUp, before };
  let workMs = 0;
  const keep = async (count: number) => {
    await initUp(); // a machine that goes on later goes on with it
    const work = { request, plan, connection, distribution, done: count, onlyBooted: count === done, workMs, shares };
    if (!(await keepLayer(host, vm, work, progress))) return;
    workMs = 0;
    lap('keep the layer');
  };
  if (build.how === 'boot' && done === stepsBeforeLast(plan)) {
    workMs = performance.now() - build.began;
    await keep(done);
    workMs = 0;
  }
  for (const [index, step] of plan.steps.entries()) {
    if (index < done) continue;
    const stepBegan = performance.now();
    progress.step(step.kind, step.label);
    await performStep(step, context);
    workMs += performance.now() - stepBegan;
    lap(step.label);
    if (index === plan.steps.length - 1 && !shares) continue; // the image itself is kept
    await keep(index + 1);
  }
  const image = await finishImage(host, vm, build.target, plan, context);
  lap('finish');
  const reason = build.noCache ? 'Every step was asked for again.' : 'What it is made from has changed.';
  return { ...image, built: true, reason, steps: timings };
}

/** Side by side: the host resolves packages while the guest boots. The failure of one ends the other. */
async function bootAndResolve(
  host: Host,
  vm: VmRecord,
  request: BuildRequest,
  plan: BuildPlan | undefined,
  signal: AbortSignal,
): Promise<{ connection: SshConnection; debs: DebPlan | undefined }> {
  // what is read from the disk is read before the guest has come to write to it
  const [debs, connection] = await sideBySide(signal, [
    async (either) => (plan ? await resolvePackages(host, vm, plan, either) : undefined),
    (either) => bootBuildVm(host, vm, request.base.boot, host.config.limits.bootTimeoutMs, either),
  ]);
  return { connection, debs };
}

async function resolvePackages(
  host: Host,
  vm: VmRecord,
  plan: BuildPlan,
  signal: AbortSignal,
): Promise<DebPlan | undefined> {
  const [first] = plan.steps;
  if (first?.kind !== 'packages') return undefined;
  return await planDebs({
    runner: host.system.runner,
    reader: diskReader(host),
    debugfs: host.config.programs.debugfs,
    rootDisk: vmFiles(host.config.paths.store, vm.id).rootDisk,
    packages: first.packages,
    cacheDir: host.config.paths.cache,
    env: host.system.env,
    signal,
  });
}

/** The image as it is, when it was made from exactly this. */
function presentImage(host: Host, request: BuildRequest, plan: BuildPlan): ImageBuilt | undefined {
  const image = host.stores.images.find(request.name);
  // another base may have the same files, and gives VMs other defaults
  if (image?.recipeKey !== plan.recipeKey || image.base !== request.base.name) return undefined;
  return {
    id: image.id,
    name: image.name,
    base: image.base,
    digest: image.digest,
    sizeBytes: image.sizeBytes,
    built: false,
    reason: 'Nothing it is made from has changed.',
    steps: plan.steps.map(({ label }) => ({ step: label, cached: true, durationMs: 0 })),
  };
}

function vmRequest({ name, base, recipe, memoryMib }: BuildRequest): Parameters<typeof admitBuildVm>[1] {
  return { name: `build-${name}`.slice(0, 63).replace(/-$/, ''), image: base.name, vcpus: recipe.vcpus, memoryMib };
}

function snapshotDirectory(host: Host, vm: VmRecord): string {
  return join(vmFiles(host.config.paths.store, vm.id).directory, 'snapshot');
}

/** @param isFull somebody ran into the end, whatever is left now */
async function watchSpace(host: Host, vm: VmRecord, full: AbortController, isFull = false): Promise<void> {
  const { directory } = vmFiles(host.config.paths.store, vm.id);
  const { bavail, bsize } = await statfs(directory).catch(() => ({ bavail: Number.POSITIVE_INFINITY, bsize: 1 }));
  if (bavail * bsize >= SPACE_LEFT_BYTES && !isFull) return;
  full.abort(
    new BangerError(
      'host_unprepared',
      `This host's disk is full: ${formatSize(bavail * bsize)} left in ${directory}.`,
      {
        hint: 'Free some space (banger image prune, banger ls), or set paths.store to a larger disk.',
      },
    ),
  );
}

/**
 * The VM goes on as an ordinary one: with a record it is listed, entered and deleted like any other. What it boots next is its
 * base, told by id as for any VM; while it was built in, it had none, so that the process of an OCI image did not begin.
 * @returns whether it can: not when its base is gone
 */
function keepVm(host: Host, vm: VmRecord, { base, sizeBytes }: BuildRequest, progress: Progress): boolean {
  const { boot } = base;
  try {
    host.stores.atomically(() => {
      requireImage(host, boot);
      const name = host.stores.vms.find(vm.name) ? `build-${vm.id}` : vm.name;
      const imageId = boot.imageId ?? null;
      host.stores.vms.insert({ ...vm, name, image: boot.name, imageId, rootDiskBytes: sizeBytes, phase: 'running' });
    });
  } catch (error) {
    progress.warn(`The VM is not kept: ${messageOf(error)}`);
    return false;
  }
  vm.name = host.stores.vms.findById(vm.id)?.name ?? vm.name;
  return true;
}

function withKeptVm(error: unknown, vm: VmRecord, again: string | undefined): BangerError {
  const cause = asBangerError(error);
  return cause.reworded(cause.message, {
    hint: [
      `Its VM is left: ${commandLine(['banger', 'ssh', vm.name])}`,
      `When the recipe is right, go on from the last layer: ${again ?? 'repeat the build'}`,
      `Remove the VM: ${commandLine(['banger', 'rm', '--force', vm.name])}`,
    ].join('\n  '),
    details: { vm: vm.name },
  });
}
