/** Operations line by line, for files, pipes and continuous integration: `start web: cloning root disk`. */
import { fractionOf, type ProgressView } from './progress.ts';

/** Percentages are worth a line this often, in `ms`: a log is read later, not watched. */
const PROGRESS_EVERY_MS = 5000;

export function createPlainView(writeLine: (line: string) => void, now = () => performance.now()): ProgressView {
  return {
    begin(label) {
      let lastText = '';
      let lastProgressAt = Number.NEGATIVE_INFINITY;
      const show = (text: string) => {
        if (text === lastText) return;
        lastText = text;
        writeLine(`${label}: ${text}`);
      };
      return {
        step: show,
        progress(progress) {
          if (now() - lastProgressAt < PROGRESS_EVERY_MS) return;
          lastProgressAt = now();
          const fraction = fractionOf(progress);
          const percent = fraction === undefined ? undefined : `${Math.round(fraction * 100)} %`;
          show([progress.label, percent, progress.detail].filter(Boolean).join(' '));
        },
        log: (line) => writeLine(`${label} | ${line}`),
        warn: (message) => writeLine(`${label}: warning: ${message}`),
        fail: () => {},
        end: () => {},
      };
    },
    clear: () => {},
    close: () => {},
  };
}
