// Scenes drawn here, so that the service can be tried without any file.

const SIDE = 256;
const LABELS = ["red circle", "blue star", "green square", "yellow heart", "purple triangle", "orange cross"];
const PAINTS = {
  red: "#dc1414", blue: "#1f55d8", green: "#1fa038", yellow: "#f5e21c", purple: "#7a24a8", orange: "#fb8610",
};
const GROUNDS = [["#c9cbd0", "#aeb1b8"], ["#53565d", "#64676f"], ["#dcdad6", "#c3c0bb"]];

export const sampleLabels = LABELS;

// The scenes as PNG files, one for each label.
export async function drawSamples() {
  return Promise.all(LABELS.map((_, index) => drawn(index)));
}

async function drawn(index) {
  const [colour, shape] = LABELS[index].split(" ");
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  const pen = canvas.getContext("2d");
  const dark = shape === "heart" || shape === "cross";
  ground(pen, dark ? GROUNDS[1] : GROUNDS[index % 2 ? 2 : 0]);
  pen.translate(SIDE * (0.46 + 0.03 * index % 0.1), SIDE * 0.52);
  pen.rotate(((index % 3) - 1) * 0.18);
  pen.fillStyle = PAINTS[colour];
  pen.shadowColor = "rgb(0 0 0 / 30%)";
  pen.shadowBlur = 12;
  outline(pen, shape, SIDE * 0.33);
  pen.fill();
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], `${colour}-${shape}.png`, { type: "image/png" });
}

function ground(pen, [plain, striped]) {
  pen.fillStyle = plain;
  pen.fillRect(0, 0, SIDE, SIDE);
  pen.strokeStyle = striped;
  pen.lineWidth = 20;
  for (let x = -SIDE; x < SIDE * 2; x += 56) {
    pen.beginPath();
    pen.moveTo(x, -10);
    pen.lineTo(x + SIDE / 2, SIDE + 10);
    pen.stroke();
  }
}

function outline(pen, shape, radius) {
  pen.beginPath();
  if (shape === "circle") pen.arc(0, 0, radius, 0, 2 * Math.PI);
  else corners(shape).forEach(([x, y]) => pen.lineTo(x * radius, y * radius));
  pen.closePath();
}

function corners(shape) {
  if (shape === "square") return ring(4, () => 1, Math.PI / 4);
  if (shape === "triangle") return ring(3, () => 1);
  if (shape === "star") return ring(10, (corner) => (corner % 2 ? 0.42 : 1));
  if (shape === "cross") {
    const arm = [[-0.3, -0.95], [0.3, -0.95], [0.3, -0.3]];
    return [0, 1, 2, 3].flatMap((quarter) => arm.map((point) => turned(point, quarter)));
  }
  return ring(96, () => 1).map((_, step) => heart((step / 96) * 2 * Math.PI));
}

function ring(number, reach, turn = 0) {
  return Array.from({ length: number }, (_, corner) => {
    const angle = (2 * Math.PI * corner) / number - Math.PI / 2 + turn;
    return [Math.cos(angle) * reach(corner), Math.sin(angle) * reach(corner)];
  });
}

function turned([x, y], quarter) {
  return quarter === 0 ? [x, y] : turned([-y, x], quarter - 1);
}

function heart(t) {
  const y = 13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t);
  return [Math.sin(t) ** 3, -y / 16];
}
