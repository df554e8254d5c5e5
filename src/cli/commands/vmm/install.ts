/** `banger vmm install`: a release of Firecracker, fetched or from a file, compared with its checksum and tried. */
import { resolve } from 'node:path';
import { BangerError } from '../../../errors.ts';
import { FIRECRACKER_RELEASE } from '../../../version.ts';
import { defineCommand } from '../../command.ts';
import { releaseStore } from '../../shared/release-store.ts';
import { installRelease, releaseVersion, versionOfArchive } from '../../shared/vmm-releases.ts';

export default defineCommand({
  positionals: ['[version]'],
  options: {
    from: {
      type: 'text',
      placeholder: 'file',
      completes: ['file'],
      help: "a release's archive that is here already, its .sha256.txt beside it",
    },
  },
  description: [
    `Without a version it is ${FIRECRACKER_RELEASE}, the newest that banger was tried with. The archive and its checksum come from`,
    'the releases of Firecracker (setting releases.firecracker). What does not match is not installed.',
    'VMs start with it from then on, unless another Firecracker is in PATH or in programs.firecracker.',
  ].join(' '),
  examples: ['vmm install', 'vmm install 1.13.1', 'vmm install --from firecracker-v1.16.1-x86_64.tgz'],
  async run(ctx, { args, options }) {
    const from = options.from === undefined ? undefined : resolve(ctx.terminal.cwd, options.from);
    const version = releaseVersion(args.version ?? versionToInstall(from));
    const store = await releaseStore(ctx);
    const { release, isNew } = await installRelease(store, version, from, ctx.talk);
    ctx.say(`Firecracker ${version} is ${isNew ? 'ready' : 'there already'} in ${release.directory}`);
    const first = await store.configured();
    if (first !== undefined) ctx.warn(`VMs are started with ${first}, which comes first; see banger vmm list`);
    return release;
  },
});

/** @throws BangerError `invalid_input` for a file whose name does not say what it is */
function versionToInstall(from: string | undefined): string {
  if (from === undefined) return FIRECRACKER_RELEASE;
  const version = versionOfArchive(from);
  if (version !== undefined) return version;
  throw new BangerError('invalid_input', `The name of ${from} says no version of Firecracker.`, {
    hint: `Say it: banger vmm install VERSION --from ${from}`,
  });
}
