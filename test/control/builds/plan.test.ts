import assert from 'node:assert/strict';
import { appendFile, copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Config } from '../../../src/config/schema.ts';
import { type BuildRequest, planSteps, resolveBuild } from '../../../src/control/builds/plan.ts';
import type { Host } from '../../../src/control/host.ts';
import type { OciRecord } from '../../../src/control/images/oci-record.ts';
import { imageFiles } from '../../../src/storage/layout.ts';
import { elfKernel, lacking } from '../../bundle/sample-bundle.ts';
import { type ImagePlace, imagePlace } from '../images/image-host.ts';

const skip = lacking('mke2fs', 'e2fsck', 'debugfs') || (process.arch !== 'x64' && 'the sample kernel is for x86-64');

/** Makes a root file system that can be built on. */
async function withServer({ dir, host, rootfs }: ImagePlace, to = rootfs): Promise<void> {
  const tree = join(dir, 'tree');
  await mkdir(join(tree, 'usr/sbin'), { recursive: true });
  await writeFile(join(tree, 'usr/sbin/sshd'), '');
  await host.system.runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-d', tree, to, '2M']);
}

describe('the base of an image build', { skip }, () => {
  it('is known by the image’s digest; that of an older banger gives the keys it gave to that one', async (t) => {
    const place = await imagePlace(t);
    await withServer(place);
    const { digest, id } = await place.import({ name: 'dev' });
    const host = place.host as unknown as Host;
    const baseOfBuild = async () => (await resolveBuild(host, { directory: place.dir, name: 'x', base: 'dev' })).base;
    const digestOfBase = async () => (await baseOfBuild()).digest;
    assert.equal((await baseOfBuild()).boot.imageId, id, 'a VM that is kept boots from it');
    assert.equal(await digestOfBase(), digest);
    assert.equal((await baseOfBuild()).imageId, id);
    assert.match(digest, /^fsverity-sha256:[0-9a-f]{64}$/);
    place.database.prepare('UPDATE images SET digest = ?').run(`sha256:${'ab'.repeat(32)}`);
    assert.equal(await digestOfBase(), 'ab'.repeat(32));
  });

  it('reads no file outside its directory unless that is allowed, and says which', async (t) => {
    const place = await imagePlace(t);
    const host = place.host as unknown as Host;
    await mkdir(join(place.dir, 'recipe'));
    const recipe = join(place.dir, 'recipe/evil.toml');
    await writeFile(join(place.dir, 'secret'), 'root is here');
    await writeFile(recipe, 'package_files = ["../secret"]\n');
    const refused = await resolveBuild(host, { directory: place.dir, recipe }).catch((error) => error);
    assert.match(refused.message, /outside its directory .*recipe: \.\.\/secret\.$/);
    assert.match(refused.hint, /--allow-outside/);
    await assert.rejects(
      resolveBuild(host, { directory: place.dir, recipe, allowOutside: true }),
      /is no package name/,
    );
  });
});

describe('the key of an image', { skip }, () => {
  const keysOf = async (host: Host, request: BuildRequest) => {
    const { baseKey, keys, recipeKey } = await planSteps(request, join(host.config.paths.store, 'none'));
    return { layers: [baseKey, ...keys], image: recipeKey };
  };
  const request = { directory: '/', name: 'x', run: ['true'] };

  it('depends on the kernel and initrd of a base that is an image; those of layers do not', async (t) => {
    const place = await imagePlace(t);
    await withServer(place);
    const [kernel, initrd] = [join(place.dir, 'vmlinux'), join(place.dir, 'initrd')];
    await writeFile(initrd, await readFile(join(place.bundle, 'initrd.img')));
    await writeFile(kernel, elfKernel());
    await place.import({ name: 'a', kernel, initrd });
    await place.import({ name: 'same', kernel, initrd });
    await appendFile(kernel, 'newer');
    await place.import({ name: 'b', kernel, initrd });
    await appendFile(initrd, Buffer.alloc(4));
    await place.import({ name: 'c', kernel, initrd });
    // a check writes the time into the file system
    place.database.prepare('UPDATE images SET digest = ?').run(`fsverity-sha256:${'ab'.repeat(32)}`);
    const host = place.host as unknown as Host;
    const [a, same, b, c] = await Promise.all(
      ['a', 'same', 'b', 'c'].map(async (base) => keysOf(host, await resolveBuild(host, { ...request, base }))),
    );
    assert.deepEqual(same, a);
    assert.deepEqual([b?.layers, c?.layers], [a?.layers, a?.layers]);
    assert.equal(new Set([a?.image, b?.image, c?.image]).size, 3);
    const { id } = host.stores.images.get('c');
    await rm(imageFiles(host.config.paths.store, id).initrd);
    const without = await resolveBuild(host, { ...request, base: 'c' });
    assert.equal(without.base.bootDigests.initrd, null, 'the checks before a boot say that it is missing');
  });

  it('depends on a kernel that the configuration puts in the place of the bundle’s, by its content', async (t) => {
    const place = await imagePlace(t);
    const rootfs = join(place.dir, 'with-server.ext4');
    await withServer(place, rootfs);
    const host = place.host as unknown as Host;
    const keysWith = async (bundle: Partial<Config['bundle']>) => {
      const config = { ...host.config, bundle: { ...host.config.bundle, rootfs, ...bundle } };
      return await keysOf(host, await resolveBuild({ ...host, config }, request));
    };
    const kernel = join(place.dir, 'vmlinux');
    await copyFile(join(place.bundle, 'vmlinux'), kernel);
    const before = await keysWith({});
    assert.deepEqual(await keysWith({ kernel }), before);
    await appendFile(kernel, 'newer');
    const after = await keysWith({ kernel });
    assert.deepEqual(after.layers, before.layers);
    assert.notEqual(after.image, before.image);
  });

  it('depends on what runs in an OCI image, and not on when its file was written', async (t) => {
    const place = await imagePlace(t);
    await withServer(place);
    await place.import({ name: 'a' });
    const host = place.host as unknown as Host;
    const plain = await resolveBuild(host, { ...request, base: 'a' });
    const oci = (cmd: string[], mtimeMs: number) => ({ reference: 'x', process: { cmd }, file: { size: 1, mtimeMs } });
    const [none, one, touched, other] = await Promise.all(
      [undefined, oci(['a'], 1), oci(['a'], 2), oci(['b'], 1)].map((record) =>
        keysOf(host, { ...plain, base: { ...plain.base, oci: record as unknown as OciRecord } }),
      ),
    );
    assert.deepEqual(touched, one);
    assert.equal(new Set([none?.image, one?.image, other?.image]).size, 3);
    assert.deepEqual([one?.layers, other?.layers], [none?.layers, none?.layers]);
  });
});
