/** The helper scripts, run for real. */
import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { readHelperScripts } from '../../src/bundle/store/helper-scripts.ts';
import { verifyBundle } from '../../src/bundle/store/verify.ts';
import { REGISTRY } from '../../src/cli/registry.ts';
import { createRunner } from '../../src/system/runner.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { daemonSkip } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { paced } from '../support/pace.ts';
import { tempDir } from '../support/temp-dir.ts';

const ROOT = join(import.meta.dirname, '../..');
const PATH = `${process.env.PATH}:/usr/sbin:/sbin`;
const LIMIT_MS = paced(15 * 60_000);

const skip = lacking('apt-get', 'mmdebstrap', 'mke2fs', 'unshare', 'setpriv', 'debugfs');

/** Commands the other scripts call, as the table of commands has them. */
const missing = ['bundle verify', 'bundle adopt'].filter((path) => !REGISTRY.some((entry) => entry.path === path));

/** The bundle of the other host tests, which `banger bundle build` has made. */
const BUNDLE = process.env.BANGER_TEST_BUNDLE ?? '';

const skipVms =
  skip ||
  (BUNDLE === '' && 'BANGER_TEST_BUNDLE names no bundle (make host-test builds one)') ||
  daemonSkip() ||
  lacking('qemu-system-x86_64', 'ip', 'nft') ||
  (process.getuid?.() !== 0 && 'VMs of a banger without set-up rights need root') ||
  (missing.length > 0 && `this banger has no command ${missing.join(', ')}`);

describe('make-rootfs.sh', { skip }, () => {
  it('makes a root file system without identity, and its package list', async (t) => {
    const dir = await tempDir(t);
    const image = join(dir, 'root.ext4');
    const runner = createRunner({ ...process.env, PATH });
    const options = ['--size', '1G', '--packages', 'openssh-server', '--include', 'tree'];
    await runner.run([join(ROOT, 'helpers/make-rootfs.sh'), ...options, image], { timeoutMs: LIMIT_MS });
    await runner.run(['e2fsck', '-f', '-n', image]);
    assert.deepEqual((await readdir(dir)).sort(), ['root.ext4', 'root.packages']);
    assert.match(await readFile(join(dir, 'root.packages'), 'utf8'), /^openssh-server \S+ \S+\n[\s\S]*^tree \S+ \S+$/m);
    const { stdout } = await runner.run(['debugfs', '-R', 'ls -p /etc/ssh', image]);
    assert.match(stdout, /sshd_config/);
    assert.doesNotMatch(stdout, /ssh_host/);
  });
});

describe('the helpers of a built bundle', { skip: skipVms }, () => {
  let dir = '';
  let bundle = '';
  let runner = createRunner();

  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'banger-host-'));
    const env = { ...process.env, PATH, BANGER: join(ROOT, 'dist/banger') };
    runner = createRunner(env);
    for (const [name, text] of Object.entries(await readHelperScripts())) {
      assert.equal(
        await readFile(join(BUNDLE, 'helpers', name), 'utf8'),
        text,
        `${name} in the bundle is of another build`,
      );
    }
    // what is changed comes up in half the time
    bundle = join(dir, 'bundle');
    await runner.run(['cp', '-a', '--sparse=always', await leanBundle(BUNDLE, join(ROOT, '.dev')), bundle]);
    await runner.run(['cp', '-a', join(BUNDLE, 'helpers'), bundle]);
  });

  after(async () => {
    await rm(dir, { recursive: true, force: true });
  });

  it('verify.sh finds the bundle it lies in good', async () => {
    const { stdout } = await runner.run([join(BUNDLE, 'helpers/verify.sh')], { timeoutMs: LIMIT_MS });
    assert.match(stdout, /works on this machine/);
  });

  for (const [name, args, input] of [
    ['customize.sh', ['SCRIPT'], undefined],
    ['interactive.sh', [], 'echo made > /etc/made-by-hand; exit 0\n'],
  ] as const) {
    it(`${name} keeps what was done as a bundle of its own`, async () => {
      const made = join(dir, `new-${name.slice(0, -3)}`);
      const script = join(dir, 'script');
      await writeFile(script, 'echo made > /etc/made-by-hand\n');
      const argv = [join(bundle, 'helpers', name), made, ...args.map(() => script)] as const;
      await runner.run(argv, { timeoutMs: LIMIT_MS, ...(input === undefined ? {} : { input }) });
      assert.equal((await verifyBundle(made, { arch: 'x86_64' })).ok, true);
      const { stdout } = await runner.run(['debugfs', '-R', 'cat /etc/made-by-hand', join(made, 'rootfs.ext4')]);
      assert.equal(stdout, 'made\n');
      assert.ok((await stat(join(made, 'bundle.json'))).isFile());
    });
  }
});
