/** `banger image diff`: what is installed in one image and not, or otherwise, in another. */
import type { ImageDiff } from '../../../api/image.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';

export default defineCommand({
  positionals: ['before', 'after'],
  completes: { before: ['image', 'bundle', 'directory'], after: ['image', 'bundle', 'directory'] },
  description: 'Either may be a bundle too.',
  examples: ['image diff debian-bookworm dev', 'image diff dev dev2 --json'],
  run: (ctx, { args }) =>
    ctx.api.call('diffImages', {
      query: { before: bundleRef(ctx, args.before), after: bundleRef(ctx, args.after) },
    }),
  print(diff, ctx) {
    ctx.talk(
      `${diff.added.length} added, ${diff.removed.length} removed, ${diff.changed.length} changed, ${diff.unchanged} the same`,
    );
    return renderDiff(diff, ctx.paint);
  },
});

function renderDiff({ added, removed, changed }: ImageDiff, paint: Paint): string {
  const lines = [
    ...added.map((one) => ({ name: one.name, line: paint('green', `+ ${one.name} ${one.version} ${one.arch}`) })),
    ...removed.map((one) => ({ name: one.name, line: paint('red', `- ${one.name} ${one.version} ${one.arch}`) })),
    ...changed.map(({ name, before, after }) => {
      const arch = before.arch === after.arch ? after.arch : `${before.arch} -> ${after.arch}`;
      const version = before.version === after.version ? after.version : `${before.version} -> ${after.version}`;
      return { name, line: paint('yellow', `~ ${name} ${version} ${arch}`) };
    }),
  ];
  return lines
    .sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
    .map(({ line }) => line)
    .join('\n');
}
