/** `banger bundle verify`: every checksum of a bundle, and whether it can boot on this machine. */
import type { BundleVerdict } from '../../../api/bundle.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';
import { perform } from '../../shared/operations.ts';

const EXIT_FAILED = 1;

export default defineCommand({
  positionals: ['[bundle]'],
  completes: { bundle: ['bundle', 'directory'] },
  description: 'The exit status is 1 when a check failed. Without a name or path the default bundle is checked.',
  examples: ['bundle verify', 'bundle verify debian-bookworm --json', 'bundle verify ./my-bundle'],
  async run(ctx, { args }) {
    const body = args.bundle === undefined ? {} : { name: bundleRef(ctx, args.bundle) };
    const label = `verify ${args.bundle ?? 'the default bundle'}`;
    const { result } = await perform(ctx, label, () => ctx.api.call('verifyBundle', { body }));
    const verdict = result as BundleVerdict;
    if (!verdict.ok) ctx.status = EXIT_FAILED;
    return verdict;
  },
  print: (verdict, ctx) => renderVerdict(verdict, ctx.paint),
});

function renderVerdict({ name, ok, checks }: BundleVerdict, paint: Paint): string {
  const failed = checks.filter((check) => !check.ok).length;
  return [
    ...checks.map(
      ({ ok, field, detail }) => `${ok ? paint('green', 'ok    ') : paint('red', 'FAILED')}  ${field}: ${detail}`,
    ),
    '',
    ok ? paint('green', `${name} is as it should be.`) : paint('red', `Checks that failed: ${failed}`),
  ].join('\n');
}
