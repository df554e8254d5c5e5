import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { copyFile, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { ServerChannel } from 'ssh2';
import { buildImage } from '../../../src/control/builds/build-image.ts';
import { discardBuildVm } from '../../../src/control/builds/build-vm.ts';
import { finishImage } from '../../../src/control/builds/finish.ts';
import { type BuildPlan, type BuildRequest, planSteps } from '../../../src/control/builds/plan.ts';
import type { StepContext } from '../../../src/control/builds/steps.ts';
import { deleteImage, needsOf, retireImage } from '../../../src/control/images/catalogue.ts';
import { vmBootSource } from '../../../src/core/boot-source.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import { BangerError } from '../../../src/errors.ts';
import { connectSsh, type SshConnection } from '../../../src/guest/ssh.ts';
import { checkRecipe } from '../../../src/image/recipe.ts';
import { imageFiles, vmFiles } from '../../../src/storage/layout.ts';
import type { Runner } from '../../../src/system/runner.ts';
import { sshGuest } from '../../guest/ssh-guest.ts';
import { NEW, OLD } from '../../support/mortal-disks.ts';
import { type MortalHost, mortalHost } from '../../support/mortal-host.ts';

const silent = { step: () => {}, report: () => {}, warn: () => {}, line: () => {} };
const never = new AbortController().signal;

describe('an image build', () => {
  it('that this host cannot do is refused before a VM is made, and leaves nothing', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const refusal = new BangerError('preflight_failed', 'One thing is missing to build an image; nothing was touched.');
    const refusing = { ...host, checks: { ...host.checks, beforeImageBuild: () => Promise.reject(refusal) } };
    const options = {
      replaces: undefined,
      noCache: true,
      keep: false,
      onKept: () => assert.fail('nothing is kept'),
      again: undefined,
    };
    await assert.rejects(buildImage(refusing, sampleRequest(), options, silent, never), refusal);
    assert.deepEqual(host.stores.buildVms.list(), []);
    assert.deepEqual(host.stores.ledger.all(), []);
    assert.deepEqual(await readdir(join(host.config.paths.store, 'vms')).catch(() => []), []);
  });

  it('of what is there already is done, but not when its base is another one', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const begun = new Error('it goes on');
    const beginning = { ...host, checks: { ...host.checks, beforeImageBuild: () => Promise.reject(begun) } };
    const options = { replaces: undefined, noCache: false, keep: false, onKept: () => {}, again: undefined };
    const build = (base: string) => {
      const request = sampleRequest();
      return buildImage(beginning, { ...request, base: { ...request.base, name: base } }, options, silent, never);
    };
    const { recipeKey } = await planSteps(sampleRequest(), '/nowhere');
    host.stores.images.insert({
      ...{ id: 'ffffffff', name: 'tools', arch: 'x86_64', base: 'base', digest: '', sizeBytes: 1 },
      ...{ recipe: null, recipeKey, createdAt: '2026-11-25T00:00:00.000Z' },
    });
    assert.equal((await build('base')).built, false);
    await assert.rejects(build('another'), begun);
  });

  it('that keeps its VM keeps the image it was made from', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const failing = {
      ...host,
      guests: { ...host.guests, peek: () => ({}) as SshConnection }, // as if a step had failed
      checks: { ...host.checks, beforeImageBuild: () => Promise.reject(new BangerError('guest_failed', 'It failed.')) },
    };
    const build = async (onKept: (vm: VmRecord) => void, onWarn = (_: string) => {}) => {
      const options = { replaces: undefined, noCache: true, keep: true, onKept, again: undefined };
      const request = sampleRequest();
      Object.assign(request.base.boot, { name: OLD.name, imageId: OLD.id });
      const progress = { ...silent, warn: onWarn };
      return await buildImage(failing, request, options, progress, never).catch((error: BangerError) => error);
    };
    const kept: VmRecord[] = [];
    await build((vm) => kept.push(vm));
    const record = host.stores.vms.get(kept[0]?.name ?? '');
    const images = host.stores.images.list();
    const [old] = images.filter(({ id }) => id === OLD.id);
    assert.deepEqual(vmBootSource(record, images), { from: 'image', image: old });
    assert.deepEqual(needsOf(host, OLD).vms, [record.name]);

    host.stores.images.remove(OLD.id);
    const warnings: string[] = [];
    const error = await build(
      () => assert.fail('it could never start again'),
      (text) => warnings.push(text),
    );
    assert.equal((error as BangerError).message, 'It failed.');
    assert.match(warnings.join(), /not kept: The image old was deleted/);
    assert.deepEqual(
      host.stores.vms.list().map(({ id }) => id),
      [record.id],
    );
  });

  it('finds its base as it was, also when that is replaced meanwhile', async () => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const { directory, kernel, initrd, rootfs } = imageFiles(host.config.paths.store, OLD.id);
    const boot = { name: OLD.name, kernel, initrd, rootfs, defaults: {} };
    const base = { name: OLD.name, imageId: OLD.id, arch: 'x86_64', digest: 'ab', boot };
    const request = { ...sampleRequest(), base } as unknown as BuildRequest;
    const options = { ...{ replaces: undefined, noCache: true, keep: false }, onKept: () => {}, again: undefined };
    const refusal = new BangerError('preflight_failed', 'This host can do nothing of the kind.');
    const beforeImageBuild = async () => {
      await assert.rejects(deleteImage(host, OLD.name), { code: 'conflict', message: /needed by the build of tools/ });
      const old = host.stores.images.get(OLD.name);
      host.stores.images.insert({ ...old, id: TARGET }, { replace: old.id });
      await retireImage(host, old);
      for (const path of [kernel, initrd, rootfs]) assert.ok(existsSync(path), path);
      throw refusal;
    };
    const refusing = { ...host, checks: { ...host.checks, beforeImageBuild } };
    await assert.rejects(buildImage(refusing, request, options, silent, never), refusal);
    assert.equal(existsSync(directory), false, 'it goes with the last that needs it');
    await assert.rejects(buildImage(refusing, request, options, silent, never), {
      code: 'not_found',
      message: /old was deleted or replaced meanwhile/,
    });
    assert.deepEqual([host.stores.buildVms.list(), host.stores.ledger.all()], [[], []]);
  });

  it('whose guest cannot be cleaned ends with what that guest said', async (t) => {
    await using place = await mortalHost();
    const { host } = place.daemon();
    const fails = (_command: string, channel: ServerChannel) => {
      const child = spawn('sh', ['-c', 'echo the disk is read-only; exit 7'], { stdio: ['ignore', 'pipe', 'ignore'] });
      child.stdout.on('data', (chunk: Buffer) => channel.write(chunk));
      child.once('close', (code) => {
        channel.exit(code ?? 255);
        channel.end();
      });
    };
    const { target } = await sshGuest(t, () => true, fails);
    await using connection = await connectSsh(target, 5000);
    const context = {
      ...{ request: sampleRequest(), connection, debs: undefined, progress: silent, signal: never, before: [] },
      distribution: { family: 'unknown', id: 'none', name: 'none', version: '' },
    } as unknown as StepContext;
    const finished = finishImage(host, place.vm, { id: 'ffffffff', replaces: undefined }, {} as BuildPlan, context);
    await assert.rejects(
      finished,
      (error: BangerError) => /clean/.test(error.message) && /read-only/.test(error.message),
    );
    assert.ok(!host.stores.images.list().some(({ id }) => id === 'ffffffff'), 'no image came of it');
  });
});

describe('the image of a build', () => {
  it('replaces the one that had its name when it began', async (t) => {
    await using place = await mortalHost();
    await finish(t, place, { name: OLD.name, replaces: OLD.id });
    assert.equal(place.stores.images.get(OLD.name).id, TARGET);
    assert.equal(place.stores.images.findById(OLD.id), undefined);
    assert.equal(existsSync(imageFiles(place.config.paths.store, OLD.id).directory), false);
  });

  for (const replaces of [undefined, NEW.id]) {
    it(`replaces none that got its name meanwhile, with ${replaces ? 'another one' : 'none'} before`, async (t) => {
      await using place = await mortalHost();
      await assert.rejects(finish(t, place, { name: OLD.name, replaces }), {
        code: 'conflict',
        message: /"old" meanwhile/,
        hint: /Build it again.*--name/,
      });
      assert.deepEqual(
        place.stores.images.list().map(({ id }) => id),
        [NEW.id, OLD.id],
      );
      for (const { id } of [OLD, NEW]) assert.ok(existsSync(imageFiles(place.config.paths.store, id).rootfs));
      await discardBuildVm(place.daemon().host, place.vm);
      assert.equal(existsSync(imageFiles(place.config.paths.store, TARGET).directory), false, 'what was made is left');
    });
  }
});

const TARGET = 'ffffffff';

/** Ends a build in a guest that does as it is told, on top of the new image. */
async function finish(
  t: TestContext,
  place: MortalHost,
  { name, replaces }: { name: string; replaces: string | undefined },
): Promise<void> {
  const { store } = place.config.paths;
  const goesDown = (_command: string, channel: ServerChannel) => {
    channel.write('banger: going down\n');
    channel.exit(0);
    channel.end();
  };
  const { target } = await sshGuest(t, () => true, goesDown);
  await using connection = await connectSsh(target, 5000);
  const { directory, rootDisk } = vmFiles(store, place.vm.id);
  await mkdir(directory, { recursive: true });
  await copyFile(imageFiles(store, NEW.id).rootfs, rootDisk);
  const { kernel, initrd, rootfs } = imageFiles(store, NEW.id);
  const base = { name: NEW.name, arch: 'x86_64', digest: 'ab', boot: { kernel, initrd, rootfs } };
  const context = {
    ...{ request: { ...sampleRequest(), name, base }, connection, debs: undefined, progress: silent, signal: never },
    ...{ before: [], distribution: { family: 'unknown', id: 'none', name: 'none', version: '' } },
  } as unknown as StepContext;
  const { host } = place.daemon();
  const runner: Runner = { ...host.system.runner, run: async () => ({ exitCode: 0, stdout: '', stderr: '' }) };
  const plan = { recipeKey: 'cd' } as BuildPlan;
  await finishImage({ ...host, system: { ...host.system, runner } }, place.vm, { id: TARGET, replaces }, plan, context);
}

function sampleRequest(): BuildRequest {
  const recipe = checkRecipe({ name: 'tools' }, 'tools.toml');
  const boot = {
    name: 'base',
    kernel: '/nowhere/vmlinux',
    initrd: undefined,
    rootfs: '/nowhere/rootfs.ext4',
    defaults: {},
  };
  return {
    ...{ name: 'tools', recipe, directory: '/nowhere', within: '/nowhere', outside: [], packages: [] },
    base: { name: 'base', arch: 'x86_64', digest: 'ab', boot },
    ...{ sizeBytes: 2 ** 31, memoryMib: 512, runTimeoutMs: 60_000 },
  } as unknown as BuildRequest;
}
